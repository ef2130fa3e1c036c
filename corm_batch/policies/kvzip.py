"""KVzip: keep what a model looks at when it is made to repeat the whole prompt, before anything is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from corm_batch.budgets.base import BudgetField
from corm_batch.errors import DocumentError
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Column, Entries
from corm_batch.ops.reduction import ALL_ROWS, Reduction
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.model import Model
from corm_batch.policies.needs import Needs
from corm_batch.policies.reading import ExtraPass, ExtraReading, answer_score

_FIRST = "Repeat the previous context exactly."
_LATER = "Repeat the part of the previous context exactly, starting with"
_REMINDER = 8
"""Tokens of the chunk before that a later chunk is asked for with."""
_SMALLEST_CHUNK = 32
"""Tokens below which a chunk is not worth the words that ask for it."""
_LARGEST = Reduction(ALL_ROWS, statistic="max")
"""Of a key's weights."""


class KVzip(ScoringPolicy, name="kvzip"):
    """Keep the keys that get the most attention when the model repeats its prompt: costly, and blind to the question.

    Based on KVzip (arXiv 2505.23416), section 3: behind a prompt that is wholly cached the model is asked to repeat it,
    chunk by chunk, and fed the chunk's own tokens; a key's score is the largest weight that any of these tokens, the
    words that ask included, and any query head of its group gives it. Weights are of a softmax over the chunk's keys,
    the prompt's first `pin_first` and those of the pass itself, as in the authors' code. The first `pin_first` stay.
    Deviations:
    * the highest scores stay in a head (budget `uniform`) or a layer (`adakv` without a floor, the default: kvpress'
      `layerwise`), where the authors let all heads of all layers compete.
    * the prompt is repeated as a whole: what the authors' system prompt, context and question are is not told apart, so
      none of it is exempt, and a question that it ends with is repeated, too.
    * the request to repeat is put as the chat template puts a user's next turn; in kvpress it follows the context
      inside the turn. A model without a template reads it as a paragraph of its own.
    * a chunk is shorter than `chunk` where the model's context has no room for it behind the prompt.
    * the answer's own entries stay before the prompt's as long as the budget has room for them.
    Cost: every token of a prompt is read twice, the second time behind all of it, and until then its cache is full:
    the peak of a document is that of an uncompressed one, in streaming prefill as well.
    """

    budget: BudgetField = Field(
        {"name": "adakv", "max_kept": 1024, "floor": 0.0},
        validate_default=True,
        description="entries a head may hold: a budget by its name",
    )
    pin_first: int = Field(4, ge=0, description="first entries that never leave, and that every chunk's softmax has")
    recent: int = Field(0, ge=0, description="newest entries that never leave, part of the budget (the paper: 0)")
    chunk: int = Field(2048, ge=1, description="tokens of the prompt that are repeated at a time")
    first_ids: tuple[int, ...] | None = Field(
        None, description="tokens that ask for the first chunk; null: in words, as the model's chat template has it"
    )
    later_ids: tuple[int, ...] | None = Field(
        None,
        description="tokens that ask for a later chunk, before the last 8 of the chunk before it; null: alike",
    )
    closing_ids: tuple[int, ...] | None = Field(None, description="tokens between either and the chunk; null: alike")

    columns: ClassVar[tuple[Column, ...]] = (Column("score"),)

    @property
    def needs(self) -> Needs:
        """Passes behind the prompt, and how a user's next turn is put unless that is given."""
        return Needs(extra_passes=True, turn=None in (self.first_ids, self.later_ids, self.closing_ids))

    def for_model(self, model: Model) -> Self:
        """With the model's own words where none are given."""
        if model.turn is None:
            return self
        say, closing = model.turn
        words = {"first_ids": say(_FIRST), "later_ids": say(_LATER), "closing_ids": closing}
        return self.model_copy(update={name: ids for name, ids in words.items() if getattr(self, name) is None})

    def born(self, layer: int, key: Tensor, value: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """An answer's, until a pass says otherwise."""
        return (answer_score(position),)

    def extra_passes(self, token_ids: np.ndarray, room: int) -> Sequence[ExtraPass]:
        """The prompt in chunks, each behind the tokens that ask for it."""
        words = self.first_ids, self.later_ids, self.closing_ids
        first, later, closing = (np.array(ids or (), np.int64) for ids in words)
        num_tokens, asking = len(token_ids), max(len(first), len(later) + _REMINDER) + len(closing)
        size, least = min(self.chunk, num_tokens, room - asking), min(self.chunk, num_tokens, _SMALLEST_CHUNK)
        if size < least:
            raise DocumentError(
                f"policy kvzip has a prompt repeated behind it, {asking} tokens that ask for it and {least} or more at "
                f"a time: {num_tokens} prompt tokens leave {room} of the context"
            )
        passes = []
        for start in range(0, num_tokens, size):
            chunk = token_ids[start : start + size]
            asked = (later, token_ids[max(0, start - _REMINDER) : start]) if start else (first,)
            passes.append(ExtraPass(np.concatenate((*asked, closing, chunk)), range(start, start + len(chunk))))
        return passes

    def observe_extra(self, layer: int, entries: Entries, reading: ExtraReading) -> tuple[Tensor, ...]:
        """The scores of the chunks that are repeated."""
        seen, chunks, where = _seen(reading.entries, reading.rows, reading.about, self.pin_first)
        key, position = (column.index_select(1, seen) for column in (entries.key, entries.position))
        never, softmax = torch.full_like(position, NEVER), (reading.scale, reading.softcap)
        packing = reading.rows, where
        _, lse = reading.ops.dense_attention(
            reading.query, key, key, reading.step, position, never, *softmax, reading.sink, packing
        )
        few = Entries(key, key, position, never, torch.zeros_like(position, dtype=torch.float32))
        found = reading.ops.reduce_columns(
            _LARGEST, reading.query, lse, reading.step, few, never, *softmax, gap_rule=False, packing=packing
        )
        return (found.statistic.index_select(1, chunks),)

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """As the passes left it."""
        return entries["score"]


@lru_cache(4)
def _seen(entries: Packing, rows: Packing, about: tuple[range, ...], pin_first: int) -> tuple[Tensor, Tensor, Packing]:
    """Which entries each chunk's softmax is over, int64: first ones, the chunk and the pass itself; which of these are
    chunks, likewise; and where each pass's stand. Remembered, for a copy in every layer would have the device wait."""
    parts, chunks = [], []
    for start, size, num_rows, chunk in zip(entries.starts, entries.sizes, rows.sizes, about, strict=True):
        first = np.arange(min(pin_first, chunk.start))
        parts.append(start + np.concatenate((first, np.array(chunk, np.int64), np.arange(size - num_rows, size))))
        chunks.append(len(first) + np.arange(len(chunk)))
    where = Packing.of([len(part) for part in parts], entries.device)
    shifted = [start + part for start, part in zip(where.starts, chunks, strict=True)]
    seen, repeated = (torch.from_numpy(np.concatenate(one)).to(entries.device) for one in (parts, shifted))
    return seen, repeated, where
