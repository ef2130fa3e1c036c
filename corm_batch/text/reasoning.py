"""What a reasoning model thinks before it answers, told apart from the answer by the mark that ends it.

The mark is the one in the model's chat template or among its added tokens, else `</think>`. Knows nothing of tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
        is_known: whether the model has these marks, and the prompt does not end the reasoning: then what stands before
            the end mark is reasoning however it begins. Else an answer may speak of the marks.
    """

    begin: str
    end: str
    begin_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    is_open: bool = False
    is_known: bool = True

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
        begun = self.is_open or text.startswith(self.begin)
        begun |= bool(self.begin_ids) and ids[: len(self.begin_ids)] == self.begin_ids
        reasoning, found, answer = text.rpartition(self.end)
        if found and (begun or self.is_known):
            return reasoning.removeprefix(self.begin).strip(), answer.strip() or None
        return (text.removeprefix(self.begin).strip(), None) if begun else ("", text)


def reasoning_marks(tokenizer: Any, prompt: str) -> ReasoningMarks:
    """The marks of a transformers tokenizer's model, for answers to `prompt`, a chat as its template renders it."""
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    found = _CHANNELS[1] if _CHANNELS[1] in template else None
    if found is None and (mark := _END.search(template) or next(filter(None, map(_END.fullmatch, added)), None)):
        found = mark[0]
    end = found or _DEFAULT
    begin = _CHANNELS[0] if end == _CHANNELS[1] else end.replace("/", "", 1)
    prompt = prompt.rstrip()
    marks = ReasoningMarks(
        begin, end, is_open=prompt.endswith(begin), is_known=found is not None and not prompt.endswith(end)
    )
    if not any(special and name and name in end for name, special in added.items()):
        return marks
    begin_ids, end_ids = (tuple(tokenizer(mark, add_special_tokens=False)["input_ids"]) for mark in (begin, end))
    return replace(marks, begin_ids=begin_ids, end_ids=end_ids)
