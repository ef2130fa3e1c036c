"""What goes into the engine and what comes out: token ids in, token ids and exact memory figures out.

Knows nothing of text, files or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from corm_batch.errors import DocumentError

FinishReason = Literal["stop", "length", "error", "cancelled"]


class SamplingParams(BaseModel):
    """How tokens are chosen and when to stop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(256, ge=1, description="stop after this many tokens")
    temperature: float = Field(0.0, ge=0.0, description="0 takes the likeliest token; above 0 samples")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="sample among the likeliest tokens that hold this much probability"
    )
    seed: int = Field(0, ge=0, description="with the request's id this fixes every draw, whatever runs beside it")
    stop_token_ids: tuple[int, ...] = Field((), description="tokens that end the answer beside the model's own")
    ignore_eos: bool = Field(False, description="go on after the model's end-of-sequence token")


@dataclass(frozen=True)
class Request:
    """One prompt to answer.

    Attributes:
        id: the caller's name for it; unique among the requests in the engine at one time.
        token_ids: the whole prompt.
        sampling: how to choose tokens.
        return_kept_positions: ask for `Completion.kept_positions`.
        stop: called with the output ids after every token; True ends the answer (stop strings live in the caller,
            who has the tokenizer).
    """

    id: str
    token_ids: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    return_kept_positions: bool = False
    stop: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class MemoryStats:
    """What one document's cache cost. All bytes are bytes of pages really held, except `kv_bytes_full`.

    Over several ranks every count is their total; of the peak, the total of each one's own.

    Attributes:
        prompt_tokens, output_tokens: counts of tokens.
        kv_bytes_full: bytes of keys and values an uncompressed cache would hold at the end (sliding-window layers
            counted at their window).
        kv_bytes_after_prefill, kv_bytes_peak, kv_bytes_final: bytes of pages held when the prompt was done, at most,
            and at the end.
        kv_bytes_transient: bytes of the dense keys and values of the one layer that prefill works on at a time.
        kept_ratio: entries stored at the end over entries an uncompressed cache would hold.
        kept_per_layer: entries stored at the end in each layer, summed over its kv heads.
        evicted_entries: entries that left.
        evicted_attention_mass: of all the attention of the queries that voted (the window at the end of an exact
            prefill, every query of a streaming one, every decoded token), the share that lay on entries which were then
            evicted, counted since they were last found important; 0 to 1, mean over layers and heads; None where the
            policy gathers something other than the sum of attention.
        preemptions: times the pages were moved to host memory to make room.
        queue_s: seconds waiting for room.
        prefill_s, decode_s: its share of the seconds of passes over prompts, by tokens, and of decode steps, evenly
            among the documents in them: summed over documents they are the time the engine spent.
        elapsed_s: seconds from its arrival to its end, beside all others.
        prefill_mode: "exact" or "streaming".
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    kv_bytes_full: int = 0
    kv_bytes_after_prefill: int = 0
    kv_bytes_peak: int = 0
    kv_bytes_final: int = 0
    kv_bytes_transient: int = 0
    kept_ratio: float = 1.0
    kept_per_layer: tuple[int, ...] = ()
    evicted_entries: int = 0
    evicted_attention_mass: float | None = 0.0
    preemptions: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    elapsed_s: float = 0.0
    prefill_mode: str = "exact"


@dataclass(frozen=True)
class Completion:
    """One finished request.

    Attributes:
        id: the request's.
        token_ids: the answer, the end-of-sequence token included when it ended so.
        finish_reason: "stop" (end of sequence or `Request.stop`), "length", "cancelled" or "error".
        error: why it failed; None unless `finish_reason` is "error".
        mean_logprob: mean natural-log probability of the chosen tokens under the model (temperature 1, no top-p); 0.0
            when there are none.
        memory: what it cost.
        kept_positions: [layer][kv head] -> sorted token indices (0 is the first prompt token) still stored at the end;
            None unless asked for.
    """

    id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    error: Exception | None = None
    mean_logprob: float = 0.0
    memory: MemoryStats = field(default_factory=MemoryStats)
    kept_positions: tuple[tuple[tuple[int, ...], ...], ...] | None = None


def room_left(num_prompt_tokens: int, max_new_tokens: int, max_model_len: int) -> int:
    """Tokens of the context that a prompt and the longest answer to it leave free; below 0 where they do not fit."""
    return max_model_len - num_prompt_tokens - max_new_tokens


def find_problem(request: Request, vocab_size: int, max_model_len: int) -> DocumentError | None:
    """Why a model of this vocabulary and context can never answer the request; None when it can."""
    ids = np.asarray(request.token_ids)
    if ids.size == 0:
        return DocumentError("the prompt is empty")
    if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= vocab_size:
        return DocumentError(f"the prompt has a token id outside 0..{vocab_size - 1}")
    if outside := [token for token in request.sampling.stop_token_ids if not 0 <= token < vocab_size]:
        return DocumentError(f"stop_token_ids: {outside[0]} is no token id: expected 0..{vocab_size - 1}")
    longest = request.sampling.max_new_tokens
    if room_left(ids.size, longest, max_model_len) < 0:
        return DocumentError(
            f"{ids.size} prompt tokens and up to {longest} new ones make {ids.size + longest}; "
            f"the context is {max_model_len}"
        )
    return None
