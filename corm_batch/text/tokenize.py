"""PromptTokenizer: text to token ids with the model's own chat template, token ids back to text.

Text of a document that looks like a special token is encoded as text, so no document can end its own turn or open
another. Knows nothing of engines, actors or tasks' meaning.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from transformers import AutoTokenizer

from corm_batch.engine.checkpoint import one_line
from corm_batch.engine.request import TokenLogprob
from corm_batch.errors import DocumentError, ModelLoadError
from corm_batch.grammar.spelling import bytes_of_tokens
from corm_batch.tasks.base import AnswerToken, Prompt
from corm_batch.text.alike import encode_alike
from corm_batch.text.chat_template import end_tokens
from corm_batch.text.layout import ANY_PROMPT, DocumentRole, Layout, Messages
from corm_batch.text.reasoning import ReasoningMarks, reasoning_marks


class PromptTokenizer:
    """One model's tokenizer and how a prompt is laid out for it.

    Attributes:
        end_token_ids: tokens that end an answer: the tokenizer's own and what the chat template puts behind one;
            whoever has the model adds the model's.
        stop_strings: texts that end every answer of this model.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        document_role: DocumentRole = "user",
        system: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a transformers tokenizer.

        Args:
            tokenizer: a transformers tokenizer.
            document_role: "user": one user message holds text and instruction; "document": the text is a message of
                its own, with the role `document`.
            system: what the model is told before everything else.
            template_arguments: what the chat template is told besides, by name.

        Raises:
            ModelLoadError: the chat template refuses messages of these roles, or leaves them out, or knows nothing of
                an argument; or there is none, and a role of its own is asked for.
        """
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # a text that holds special tokens is encoded under a setting of the tokenizer's
        self._layout = Layout(tokenizer, document_role, system, template_arguments or {})
        added = tokenizer.added_tokens_decoder
        self._special = {token.content: (id_, token) for id_, token in added.items() if token.special and token.content}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.encode: Callable[[Prompt], tuple[int, ...]] = lru_cache(maxsize=64)(self._encode)
        self._reasoning: Callable[[str], ReasoningMarks] = lru_cache(maxsize=64)(self._reason)
        eos = tokenizer.eos_token_id
        self.end_token_ids: frozenset[int] = frozenset() if eos is None else frozenset([eos])
        self.stop_strings: tuple[str, ...] = ()
        if tokenizer.chat_template:
            self.end_token_ids |= end_tokens(tokenizer, self._layout.messages(ANY_PROMPT), self._layout.arguments)

    @property
    def wrapped(self) -> Any:
        """The transformers tokenizer; for what asks nothing of prompts, on the thread that has this one."""
        return self._tokenizer

    @property
    def has_template(self) -> bool:
        """Whether the model's own chat template lays prompts out."""
        return bool(self._tokenizer.chat_template)

    @property
    def highest_token_id(self) -> int:
        """The highest id that a text can be encoded with."""
        return max(self._tokenizer.get_vocab().values(), default=-1)

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        document_role: DocumentRole = "user",
        system: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> PromptTokenizer:
        """Load the tokenizer of a local folder or hub id.

        Raises:
            ModelLoadError: no tokenizer there, or its chat template refuses the messages.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        except Exception as error:  # somebody else's files can fail in any way
            raise ModelLoadError(f"model.name: cannot load the tokenizer of {path!r}: {one_line(error)}") from error
        tokenizer.model_max_length = 2**31  # the engine owns the limit; no warning for a text that gets cut anyway
        return cls(tokenizer, document_role=document_role, system=system, template_arguments=template_arguments)

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The whole prompt as token ids, ready for the answer's first token; called from several threads."""
        with self._lock:
            return self._encode_alone(prompt)

    def _encode_alone(self, prompt: Prompt) -> tuple[int, ...]:
        """The same, once no other thread encodes."""
        if not self._tokenizer.chat_template:
            return tuple(self._tokenizer(self._layout.plain(prompt), split_special_tokens=True)["input_ids"])
        messages = self._layout.messages(prompt)
        if (text := self._plain(prompt, messages)) is not None:
            return tuple(self._encode_text(text, split_special_tokens=False))
        return self._encode_as_text(prompt, messages)

    def encode_all(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...] | DocumentError]:
        """Several prompts as `encode` has each, or why it has not; a text that they begin with is encoded once."""
        found: dict[int, tuple[int, ...] | DocumentError] = {}
        texts: dict[int, str] = {}
        together = len(prompts) > 1 and self.has_template  # one alone may be remembered
        for place, prompt in enumerate(prompts):
            try:
                text = self._plain(prompt, self._layout.messages(prompt)) if together else None
                if text is None:
                    found[place] = self.encode(prompt)
                else:
                    texts[place] = text
            except DocumentError as error:
                found[place] = error
        if texts:
            with self._lock:
                found |= zip(texts, map(tuple, encode_alike(self._tokenizer, [*texts.values()])), strict=True)
        return [found[place] for place in range(len(prompts))]

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """A chat as the model's template lays it out, up to where the answer starts."""
        return self._layout.render(messages, add_generation_prompt=add_generation_prompt)

    def rendered_ids(self, text: str) -> list[int]:
        """What `render` gave as token ids: special tokens in it are what they are."""
        with self._lock:
            return self._encode_text(text, split_special_tokens=False)

    def _plain(self, prompt: Prompt, messages: Messages) -> str | None:
        """The chat as the template lays it out; None where a content has what looks like a special token."""
        if any(self._special_pattern.search(message["content"]) for message in messages):
            return None
        return self._layout.rendered(prompt, messages)

    def _encode_text(self, text: str, *, split_special_tokens: bool) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
        return list(encoded["input_ids"])

    def _encode_as_text(self, prompt: Prompt, messages: Messages) -> tuple[int, ...]:
        """Encode a chat whose contents hold special-token strings: only the template's own become special ids.

        Each such string travels through the template as a private-use sentinel, because a template may trim or move
        what it is given; the rendered text is cut at the special tokens that are left.
        """
        contents = "".join(message["content"] for message in messages)
        mark = "\ue000"
        while mark in contents:
            mark += "\ue001"
        names = list(self._special)
        hidden = {name: f"{mark}{index}{mark}" for index, name in enumerate(names)}
        safe = [
            {**message, "content": self._special_pattern.sub(lambda found: hidden[found[0]], message["content"])}
            for message in messages
        ]
        shown = re.compile(f"{mark}(\\d+){mark}")
        ids: list[int] = []
        swallow = False  # some special tokens take the blanks beside them
        for piece in re.split(f"({self._special_pattern.pattern})", self._layout.rendered(prompt, safe)):
            if piece in self._special:
                id_, token = self._special[piece]
                ids.append(id_)
                swallow = token.rstrip
                continue
            text = shown.sub(lambda match: names[int(match[1])], piece.lstrip() if swallow else piece)
            ids += self._encode_text(text, split_special_tokens=True) if text else []
        return tuple(ids)

    def token_ends(self, text: str) -> Sequence[int]:
        """Where in `text` each of its tokens ends, as character offsets; estimated when the tokenizer cannot say."""
        with self._lock:
            if self._tokenizer.is_fast:
                encoding = self._tokenizer(
                    text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
                )
                return [end for _, end in encoding["offset_mapping"]]
            count = len(self._encode_text(text, split_special_tokens=True))
        return [len(text) * (index + 1) // count for index in range(count)]

    def text_ids(self, text: str, *, begin: bool = False) -> list[int]:
        """A text alone as token ids: what looks like a special token is text; with `begin` those every text has."""
        with self._lock:
            ids: list[int] = self._tokenizer(text, add_special_tokens=begin, split_special_tokens=True)["input_ids"]
            return ids

    @cached_property
    def _bytes_of(self) -> Callable[[int], bytes]:
        try:
            return bytes_of_tokens(self._tokenizer)
        except Exception:  # one that the library cannot read
            return lambda token_id: self.spelled([token_id]).encode()

    def told(self, logprobs: Iterable[Sequence[TokenLogprob]]) -> tuple[AnswerToken, ...]:
        """An answer's tokens with the likeliest ones in their places, as `Completion.logprobs` has them, in words."""

        def spelled(one: TokenLogprob, likeliest: Sequence[TokenLogprob] = ()) -> AnswerToken:
            content = self._bytes_of(one.token_id)
            text = content.decode("utf-8", "replace")
            return AnswerToken(text, one.token_id, content, one.logprob, tuple(map(spelled, likeliest)))

        return tuple(spelled(own, likeliest) for own, *likeliest in logprobs)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary

    def spelled(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens stand for, special tokens by their names: what the model sees."""
        text: str = self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
        return text

    def decode(self, token_ids: Sequence[int], stop: Sequence[str] = (), stop_token_ids: Sequence[int] = ()) -> str:
        """The answer's text: no special tokens, nothing from the first stop string or token on, no blanks around it."""
        ids = list(token_ids)
        ends = {*self.end_token_ids, *stop_token_ids}
        if ids and ids[-1] in ends:
            ids.pop()
        strings = self._stop_strings(stop)
        if any(map(self._special_pattern.search, strings)):
            return self._decode_up_to(ids, strings)
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text[: _first(strings, text)].strip()

    def _decode_up_to(self, ids: list[int], stop: Sequence[str]) -> str:
        """The text without special tokens before the first of the stop strings, which have some."""
        special = {id_ for id_, _ in self._special.values()}
        pieces = [
            (is_special, self._tokenizer.decode(list(run)))
            for is_special, run in itertools.groupby(ids, key=lambda id_: id_ in special)
        ]
        end, text, start = _first(stop, "".join(piece for _, piece in pieces)), "", 0
        for is_special, piece in pieces:
            text += "" if is_special else piece[: max(0, end - start)]
            start += len(piece)
        return text.strip()

    @cached_property
    def reasoning(self) -> ReasoningMarks:
        """What ends the model's reasoning in its answers."""
        return self._reasoning("")

    def reasoning_of(self, prompt: Prompt) -> ReasoningMarks:
        """The same in answers to a prompt, which may tell the template otherwise whether to reason."""
        return self._reasoning(prompt.template_arguments) if prompt.template_arguments else self.reasoning

    def _reason(self, arguments: str) -> ReasoningMarks:
        if not self._tokenizer.chat_template:
            return reasoning_marks(self._tokenizer, "")
        told = self._layout.arguments_of(replace(ANY_PROMPT, template_arguments=arguments))
        return reasoning_marks(self._tokenizer, self._layout.render(self._layout.messages(ANY_PROMPT), told))

    def stop_check(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
        """A test on the output ids so far: does the newest token complete one of the `stop` strings?"""
        strings = self._stop_strings(stop)
        if not strings:
            return None
        # a token stands for at least one byte; four more because a cut character decodes to something else
        tail = max(len(string.encode()) for string in strings) + 4
        plain = not any(map(self._special_pattern.search, strings))

        def stops(token_ids: Sequence[int]) -> bool:
            text = self._tokenizer.decode(list(token_ids[-tail:]), skip_special_tokens=plain)
            return any(string in text for string in strings)

        return stops

    def _stop_strings(self, stop: Sequence[str]) -> list[str]:
        return [string for string in (*stop, *self.stop_strings) if string]


def _first(strings: Sequence[str], text: str) -> int:
    """Where the first of the strings begins in `text`; its length where none does."""
    return min((text.find(string) for string in strings if string in text), default=len(text))
