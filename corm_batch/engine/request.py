"""What goes into the engine and what comes out: token ids in, token ids and exact memory figures out.

Knows nothing of text, files or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import DocumentError
from corm_batch.grammar.grammar import Grammar

FinishReason = Literal["stop", "length", "error", "cancelled"]


class SamplingParams(BaseModel):
    """How tokens are chosen and when to stop.

    `top_k`, `top_p`, `min_p` and `repetition_penalty` go before those of the model's generation_config.json where they
    say something. The penalties count for greedy answers and for scores, too (`corm_batch.engine.penalties`).

    Log-probabilities that `logprobs` asks for are those of the distribution that a greedy answer goes by: under the
    model's rules, the penalties and the grammar, before temperature, top_k, top_p and min_p, which decide about draws
    alone. vLLM tells them before its penalties, unless its `logprobs_mode` says otherwise; OpenAI says nothing of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(256, ge=1, description="stop after this many tokens")
    temperature: float = Field(0.0, ge=0.0, description="0 takes the likeliest token; above 0 samples")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="sample among the likeliest tokens that hold this much probability"
    )
    top_k: int = Field(0, ge=0, description="sample among so many likeliest tokens; 0 for all")
    min_p: float = Field(
        0.0, ge=0.0, le=1.0, description="sample among tokens at least so many times as likely as the likeliest"
    )
    repetition_penalty: float = Field(
        1.0, gt=0.0, description="divides the positive and multiplies the negative logits of tokens in prompt or answer"
    )
    presence_penalty: float = Field(
        0.0, ge=-2.0, le=2.0, description="taken from the logits of tokens that the answer has"
    )
    frequency_penalty: float = Field(
        0.0, ge=-2.0, le=2.0, description="taken from the logits of tokens for each time that the answer has them"
    )
    seed: int = Field(0, ge=0, description="with the request's id this fixes every draw, whatever runs beside it")
    stop_token_ids: tuple[int, ...] = Field((), description="tokens that end the answer beside the model's own")
    logprobs: int | None = Field(
        None, ge=0, description="tell the log-probabilities of each token and of so many likeliest ones in its place"
    )
    ignore_eos: bool = Field(False, description="go on after the model's end-of-sequence token")


@dataclass(frozen=True)
class Request:
    """One prompt to answer.

    Attributes:
        id: the caller's name for it; unique among the requests in the engine at one time.
        token_ids: the whole prompt; over a reading, what of it comes behind.
        sampling: how to choose tokens.
        return_kept_positions: ask for `Completion.kept_positions`.
        stop: called with the output ids after every token; True ends the answer (stop strings live in the caller,
            who has the tokenizer).
        answer_ids: score this answer, whole, instead of writing one; of `sampling` the penalties count then, and
            `stop` is never called. An empty answer has empty scores.
        uncompressed: keep every entry of this request, whatever the policy. With `answer_ids` one exact pass over
            prompt and answer is all, and nothing is stored.
        instruction: spans of `token_ids` that are not the document's but say what is wanted of it, for a policy that
            pins them; () where there are none, None where nobody knows, which such a policy refuses.
        grammar: the form that the answer has: only tokens that go on with it are chosen, and of an answer to score the
            others count as impossible. The answer ends where it is whole and nothing can follow, or with an end of
            sequence, or a stop token, where it may be whole. `stop` and "length" end it wherever it is.
        reading: what the prompt begins with, of an engine that has read it, or is to, for several requests.
    """

    id: str
    token_ids: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    return_kept_positions: bool = False
    stop: Callable[[Sequence[int]], bool] | None = None
    answer_ids: Sequence[int] | None = None
    uncompressed: bool = False
    instruction: tuple[range, ...] | None = None
    grammar: Grammar | None = None
    reading: SharedReading | None = None

    @property
    def prompt_parts(self) -> tuple[Sequence[int], ...]:
        """The token ids of the whole prompt, part by part."""
        return (self.token_ids,) if self.reading is None else (self.reading.token_ids, self.token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return sum(map(len, self.prompt_parts))

    @property
    def alone(self) -> Request:
        """The same request, which reads its whole prompt itself."""
        if self.reading is None:
            return self
        instruction, own = None, self.own_instruction
        if own is not None and self.reading.instruction is not None:
            instruction = (*self.reading.instruction, *own)
        token_ids = (*self.reading.token_ids, *self.token_ids)
        return replace(self, token_ids=token_ids, instruction=instruction, reading=None)

    @property
    def own_instruction(self) -> tuple[range, ...] | None:
        """`instruction`, counted from the beginning of the whole prompt."""
        if self.instruction is None or self.reading is None:
            return self.instruction
        behind = len(self.reading.token_ids)
        return tuple(range(behind + span.start, behind + span.stop) for span in self.instruction)

    def beginning(self, num_tokens: int) -> SharedReading:
        """What is to be read of the prompt's first tokens, for this request and others that begin with them."""
        before = None if self.instruction is None else cut_spans(self.instruction, num_tokens)[0]
        return SharedReading(uuid4().hex, self.token_ids[:num_tokens], before, self.uncompressed)

    def over(self, reading: SharedReading) -> Request:
        """The same request over a reading of what its prompt begins with; `alone` is the way back."""
        num_tokens = len(reading.token_ids)
        behind = None if self.instruction is None else cut_spans(self.instruction, num_tokens)[1]
        return replace(self, token_ids=self.token_ids[num_tokens:], instruction=behind, reading=reading)

    @property
    def num_likeliest(self) -> int | None:
        """Likeliest tokens to tell beside each token of an answer that is written; None where nothing is told."""
        return self.sampling.logprobs if self.answer_ids is None else None

    @property
    def most_new_tokens(self) -> int:
        """Tokens the answer has at most."""
        return self.sampling.max_new_tokens if self.answer_ids is None else len(self.answer_ids)


@dataclass(frozen=True)
class Scores:
    """What a model makes of an answer, token by token.

    Attributes:
        logprobs: natural-log probability of every token under the model's rules, the request's penalties and its
            grammar, as at the step at which the request's own answer would choose it (temperature 1, no top-p); -inf
            where one forbids it.
        best_logprobs: of the likeliest token at each place; `best - logprob` is the gap in nats, exactly 0.0 where a
            greedy answer would go on with the token itself.
    """

    logprobs: tuple[float, ...]
    best_logprobs: tuple[float, ...]


class TokenLogprob(NamedTuple):
    """A token that may stand in a place of an answer, and its natural-log probability there."""

    token_id: int
    logprob: float


@dataclass(frozen=True)
class Completion:
    """One finished request.

    Attributes:
        id: the request's.
        token_ids: the answer, the end-of-sequence token included when it ended so.
        finish_reason: "stop" (end of sequence, of `Request.grammar`, or `Request.stop`), "length", "cancelled" or
            "error".
        error: why it failed; None unless `finish_reason` is "error".
        mean_logprob: mean natural-log probability of the chosen tokens under the model, its rules, the penalties and
            the grammar (temperature 1, no top-p); 0.0 when there are none.
        memory: what it cost.
        kept_positions: [layer][kv head] -> sorted token indices (0 is the first prompt token) still stored at the end;
            None unless asked for.
        scores: of `Request.answer_ids`; None without, and where the request ended early.
        logprobs: for each token of an answer that was written, where `SamplingParams.logprobs` asks for them, itself
            and then as many likeliest ones, of equal ones the lowest id first; those that nothing allows are left out.
    """

    id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    error: Exception | None = None
    mean_logprob: float = 0.0
    memory: MemoryStats = field(default_factory=MemoryStats)
    kept_positions: tuple[tuple[tuple[int, ...], ...], ...] | None = None
    scores: Scores | None = None
    logprobs: tuple[tuple[TokenLogprob, ...], ...] | None = None


def cut_spans(spans: Sequence[range], at: int) -> tuple[tuple[range, ...], tuple[range, ...]]:
    """Spans before and behind a place, these counted from there."""
    before = tuple(range(span.start, min(span.stop, at)) for span in spans if span.start < at)
    behind = tuple(range(max(0, span.start - at), span.stop - at) for span in spans if span.stop > at)
    return before, behind


def room_left(num_prompt_tokens: int, max_new_tokens: int, max_model_len: int) -> int:
    """Tokens of the context that a prompt and the longest answer to it leave free; below 0 where they do not fit."""
    return max_model_len - num_prompt_tokens - max_new_tokens


def find_problem(request: Request, vocab_size: int, max_model_len: int) -> DocumentError | None:
    """Why a model of this vocabulary and context can never answer the request; None when it can."""
    if len(request.token_ids) == 0:
        return DocumentError("the prompt is empty")
    for what, ids in (("prompt", request.token_ids), ("answer to score", request.answer_ids)):
        if ids is not None and not _are_tokens(ids, vocab_size):
            return DocumentError(f"the {what} has a token id outside 0..{vocab_size - 1}")
    if wrong := [span for span in request.instruction or () if not _is_within(span, len(request.token_ids))]:
        return DocumentError(f"instruction: {wrong[0]} is no span of a prompt of {len(request.token_ids)} tokens")
    if request.grammar is not None and request.sampling.ignore_eos:
        return DocumentError("ignore_eos: an answer to a grammar ends where it is whole")
    if outside := [token for token in request.sampling.stop_token_ids if not 0 <= token < vocab_size]:
        return DocumentError(f"stop_token_ids: {outside[0]} is no token id: expected 0..{vocab_size - 1}")
    size, longest = request.num_prompt_tokens, request.most_new_tokens
    if room_left(size, longest, max_model_len) < 0:
        new = f"up to {longest} new ones" if request.answer_ids is None else f"{longest} of the answer to score"
        return DocumentError(f"{size} prompt tokens and {new} make {size + longest}; the context is {max_model_len}")
    return None


def _is_within(span: range, num_tokens: int) -> bool:
    return span.step == 1 and 0 <= span.start <= span.stop <= num_tokens


def _are_tokens(ids: Sequence[int], vocab_size: int) -> bool:
    """Whether all of these are token ids."""
    found = np.asarray(ids)
    if found.size == 0:
        return True
    return found.dtype.kind in "iu" and found.min() >= 0 and found.max() < vocab_size
