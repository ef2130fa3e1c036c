"""What a reasoning model thinks before it answers, told apart from the answer by the mark that ends it.

The mark is the one in the model's chat template or among its added tokens, else `</think>`. Knows nothing of tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# </think>, [/THINK], ◁/think▷, </seed:think>, </thought>, </reasoning>, ...: the mark that begins has no slash
_END = re.compile(r"(?:</|<\|/|\[/|◁/)[\w:]*?(?:think|thought|reason)\w*(?:\|>|[>\]▷])", re.IGNORECASE)
_DEFAULT = "</think>"
_CHANNELS = ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")  # harmony: its answer is a channel


@dataclass(frozen=True)
class ReasoningMarks:
    """Where reasoning begins and ends.

    Attributes:
        begin, end: the marks as text.
        begin_ids, end_ids: as token ids, where decoding drops some of them; else empty.
        is_open: whether the prompt itself begins the reasoning.
    """

    begin: str
    end: str
    begin_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    is_open: bool = False

    def part(self, token_ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> tuple[str, str | None]:
        """Reasoning ("" for none) and answer of what the model wrote; no answer when none follows its end.

        Of several end marks the last counts. `decode` turns token ids into text.
        """
        ids = tuple(token_ids)
        if self.end_ids:
            width = len(self.end_ids)
            ends = [at for at in range(len(ids) - width + 1) if ids[at : at + width] == self.end_ids]
            if ends:
                return decode(ids[: ends[-1]]), decode(ids[ends[-1] + width :]) or None
        text = decode(ids)
        reasoning, found, answer = text.rpartition(self.end)
        if found:
            return reasoning.removeprefix(self.begin).strip(), answer.strip() or None
        begun = self.is_open or text.startswith(self.begin)
        begun |= bool(self.begin_ids) and ids[: len(self.begin_ids)] == self.begin_ids
        return (text.removeprefix(self.begin).strip(), None) if begun else ("", text)


def reasoning_marks(tokenizer: Any, prompt: str) -> ReasoningMarks:
    """The marks of a transformers tokenizer's model, for answers to `prompt`, a chat as its template renders it."""
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    if _CHANNELS[1] in template:
        begin, end = _CHANNELS
    else:
        found = _END.search(template) or next(filter(None, map(_END.fullmatch, added)), None)
        end = found[0] if found else _DEFAULT
        begin = end.replace("/", "", 1)
    is_open = prompt.rstrip().endswith(begin)
    if not any(special and name and name in end for name, special in added.items()):
        return ReasoningMarks(begin, end, is_open=is_open)
    begin_ids, end_ids = (tuple(tokenizer(mark, add_special_tokens=False)["input_ids"]) for mark in (begin, end))
    return ReasoningMarks(begin, end, begin_ids, end_ids, is_open)
