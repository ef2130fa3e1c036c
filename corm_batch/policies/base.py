"""KVPolicy: which cached entries survive.

A policy is a frozen value; its fields are its hyper-parameters. It sees per-entry tensors and answers with numbers; it
never sees a page, a pool or a scheduler. The engine asks three things and branches on nothing else:

    expiry        the last step at which a query may see a new entry, should no query find it important
    reduction     how recent queries vote; each hit moves an entry's expiry to `window` steps after it
    max_kept      an optional hard bound on the entries of one head, and `rank`, who stays when it is exceeded

An entry leaves at the end of its expiry and its page is freed: "visible at step t" is `t <= expiry` for every policy,
one comparison in every kernel. Steps and positions are 1-based inside their own document.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction
from corm_batch.registry import Plugin


class KVPolicy(Plugin, kind="policy", package="corm_batch.policies"):
    """Which cached entries survive; as it stands, all of them.

    Attributes:
        engine_fields: fields of EngineConfig marked as changing no answer that change what this policy keeps.
    """

    engine_fields: ClassVar[frozenset[str]] = frozenset()

    @property
    def reduction(self) -> Reduction | None:
        """How recent queries vote; None when attention is not looked at."""
        return None

    @property
    def entries_bound(self) -> int | None:
        """Most entries a head holds after prefill, after a chunk and after a compaction; None for no bound."""
        return None

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Expiry of entries at their birth.

        Args:
            layer: index of the layer.
            position: [..., K, N] int32.

        Returns:
            [..., K, N] int32.
        """
        return torch.full_like(position, NEVER)

    def rank(self, entries: Entries, step: int | Tensor) -> Tensor:
        """Order of the entries of each head for `entries_bound`: the highest stay.

        Args:
            entries: [..., K, N].
            step: the last step taken, of each entry's sequence.

        Returns:
            [..., K, N] int64, no two equal in a head. Here: the latest expiry first, then the newest.
        """
        return torch.add(entries.position, entries.expiry.long(), alpha=1 << 32)


def check_bound(max_kept: int | None, recent: int) -> None:
    """Refuse a bound that has no room for the entries that never leave.

    Raises:
        ValueError: with both numbers.
    """
    if max_kept is not None and max_kept < recent:
        raise ValueError(f"max_kept ({max_kept}) must be at least recent ({recent}), which never leave")


def recent_first(rank: Tensor, entries: Entries, step: int | Tensor, recent: int) -> Tensor:
    """Ranks below 2^62, with the newest `recent` entries of each head above all others; `rank` itself, changed."""
    return rank.add_(entries.position > step - recent, alpha=1 << 62)


class ScoringPolicy(KVPolicy):
    """Nothing expires; what a head may hold is bounded, and the highest scores stay.

    The bound is applied after prefill, after each chunk and at compactions; between these a head holds what was born.
    """

    max_kept: int = Field(1024, ge=1, description="entries a head may hold")
    recent: int = Field(256, ge=1, description="newest entries that never leave, part of max_kept")

    @model_validator(mode="after")
    def _recent_entries_fit(self) -> Self:
        check_bound(self.max_kept, self.recent)
        return self

    @property
    def entries_bound(self) -> int:
        """`max_kept`."""
        return self.max_kept

    def score(self, entries: Entries, step: int | Tensor) -> Tensor:
        """What decides who stays; arguments as for `rank`.

        Returns:
            [..., K, N] float32, none below 0.
        """
        raise NotImplementedError

    def rank(self, entries: Entries, step: int | Tensor) -> Tensor:
        """The newest `recent` entries first, then the highest score, then the newest."""
        bits = self.score(entries, step).view(torch.int32).long()  # of numbers from 0 on, in the numbers' own order
        return recent_first(torch.add(entries.position, bits, alpha=1 << 31), entries, step, self.recent)
