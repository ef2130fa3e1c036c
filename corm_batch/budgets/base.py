"""Budget: how many entries the heads of a layer may hold. Which ones those are is the policy's to say.

    policy: {name: snapkv, budget: {name: adakv, max_kept: 1024}}
    policy: {name: snapkv, budget: {name: adakv, max_kept: 0.25}}  # of the document's tokens

A budget is a frozen value. The engine asks `most` on the host, for pages and admission, and where the heads of a layer
share what they may hold, `split` on the device, for who gets how much.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from torch import Tensor

from corm_batch.errors import SpecError
from corm_batch.registry import Plugin


class Place(NamedTuple):
    """Which layer a budget is asked about.

    Attributes:
        layer: its index.
        num_layers: of the model.
        num_heads: kv heads of the layer, over all ranks.
        recent: entries that stay in every head, part of what it may hold: the newest, and the prompt's that are pinned;
            in `split`, where sequences are pinned differently, the newest alone.
    """

    layer: int
    num_layers: int
    num_heads: int
    recent: int


def _entries_or_share(value: Any) -> int | float:
    """A whole number of entries, or a fraction of a document's tokens; 1 is one entry, 1.0 is all."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and value > 1.0 and value.is_integer():
        return int(value)
    if isinstance(value, float) and 0.0 < value <= 1.0:
        return value
    raise ValueError(
        "allowed are a number of entries from 1 on, or a share of the document's tokens, as 0.25, up to 1.0"
    )


class Budget(Plugin, kind="budget", package="corm_batch.budgets"):
    """How many entries the heads of a layer may hold after prefill, after a chunk and after a compaction."""

    max_kept: Annotated[int | float, BeforeValidator(_entries_or_share)] = Field(
        1024,
        description="entries a head may hold, on average over layers and heads; a fraction such as 0.25: that share of "
        "the document's tokens",
    )

    shared: ClassVar[bool] = False
    """Whether the heads of a layer share what they may hold, as `split` says."""

    def average(self, place: Place, num_tokens: int) -> int:
        """`max_kept` in entries; never fewer than stay in any case."""
        most = self.max_kept if isinstance(self.max_kept, int) else math.ceil(self.max_kept * num_tokens)
        return max(place.recent, most)

    def most(self, place: Place, num_tokens: int) -> int | tuple[int, ...]:
        """Entries that a head may hold; where heads share, on average.

        Args:
            place: the layer.
            num_tokens: tokens of the document that have been read or written.

        Returns:
            `place.recent` or more; one number for all heads, or one for each of them.

        Raises:
            SpecError: the budget is for another kind of model. Asked of every layer when a model is loaded.
        """
        raise NotImplementedError

    def split(self, place: Place, most: int | Tensor, rank: Tensor, candidate: Tensor) -> Tensor:
        """What each head of a layer may hold, where heads share.

        Args:
            place: the layer.
            most: what `most` said; a tensor [..., 1] where sequences differ.
            rank: [..., K, N] float32 or int32, what the policy says of the entries of all heads: the highest stay.
            candidate: [..., K, N] bool, which of these are entries.

        Returns:
            [..., K] integers, in all no more than K times `most`.
        """
        raise NotImplementedError


def _select(value: Any) -> Budget:
    """The budget that a mapping names; what is wrong with it is told as a part of the policy."""
    try:
        return Budget.from_spec(value)
    except SpecError as error:
        lines = str(error).splitlines()
        raise SpecError("\n".join(f"policy.{line}" if line.startswith("budget") else line for line in lines)) from error


BudgetField = Annotated[
    Budget,
    BeforeValidator(_select),
    PlainSerializer(lambda budget: budget.to_spec()),
    WithJsonSchema({"type": "budget"}),
]
"""The type of a policy's field that holds a budget, given by name."""
