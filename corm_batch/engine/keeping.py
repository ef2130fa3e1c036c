"""Keeping: what survives of a pass over prompts goes into the cache, an owner's once all members of its group have
values for it (`kv.groups`)."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field

import torch
from torch import Tensor

from corm_batch.engine.eviction import Survivors
from corm_batch.engine.looks import Behind
from corm_batch.kv.cache import KVCache
from corm_batch.kv.stage import Stage


@dataclass(frozen=True)
class Waiting:
    """An owner's survivors until all members of its group have values for them.

    Attributes:
        survivors: these.
        behind: how they are read with a member's values; None where these are those of the pass's own rows.
        values: of the members so far.
    """

    survivors: Survivors
    behind: Behind | None
    values: list[Tensor] = field(default_factory=list)


class Keeping:
    """What one pass stores.

    Args:
        cache: where.
        stage: the pages that it may take.
        num_spans: of the pass.
    """

    def __init__(self, cache: KVCache, stage: Stage, num_spans: int) -> None:
        self._cache, self._stage = cache, stage
        self._waiting: dict[tuple[int, int], Waiting] = {}  # by owner and first span
        self._lost: list[dict[int, Tensor]] = [{} for _ in range(num_spans)]  # by layer: statistic of what left, [K]

    def add(self, survivors: Survivors, first: int, value_KRD: Tensor, behind: Behind | None) -> None:
        """Store one layer's survivors, of spans from the number `first` on, or have them wait; a member's values may be
        the last that others wait for.

        Args:
            survivors, first: as said.
            value_KRD: the layer's, of the pass's own rows.
            behind: see `Waiting`.
        """
        layers, layer = self._cache.layers, survivors.layer
        if layers.num_members[layer]:
            self._waiting[layer, first] = Waiting(survivors, behind)
        else:
            self._store(survivors, first)
        if (member := layers.member(layer)) is not None:
            owners = self._waiting[member.owner, first]
            owners.values.append(owners.behind(value_KRD, member.number).value if owners.behind else value_KRD)
            if member.number == layers.num_members[member.owner]:
                self._store(owners.survivors, first, owners.values)
                del self._waiting[member.owner, first]

    def lost(self, number: int) -> Tensor | None:
        """[L] the statistic of what left of a span, mean over heads; None where nothing was stored of it."""
        lost = self._lost[number]
        return torch.stack([lost[layer] for layer in sorted(lost)]).mean(dim=1) if lost else None

    def _store(self, survivors: Survivors, first: int, values: abc.Sequence[Tensor] = ()) -> None:
        for number, lost_K in enumerate(survivors.store(self._cache, self._stage, values), first):
            self._lost[number][survivors.layer] = lost_K
