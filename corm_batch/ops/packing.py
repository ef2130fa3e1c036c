"""Packing: where the sequences of a pass stand, side by side along one dimension of its tensors.

    [ tokens of sequence 0 | of sequence 1 | ... ]        one launch for all of them

An operation that takes one does to each sequence what it does to one that stands alone: its definition is a loop over
`slices`, its kernel has a program more for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from corm_batch.ops.pages import NEVER, Entries


@dataclass(frozen=True, eq=False)
class Packing:
    """Where S sequences stand.

    Attributes:
        starts, sizes: [S] int32 on the host: the first of a sequence's tokens, and how many there are, 0 or more.
        device: where kernels look them up.
        hole: of entries behind whose older ones padding may stand: how many of these each head has, [S, K] int32, and
            where the newer ones begin, [S] int32, both counted from the sequence's first; None where there is none.
    """

    starts: np.ndarray
    sizes: np.ndarray
    device: torch.device
    hole: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, sizes: Sequence[int] | np.ndarray, device: torch.device) -> Packing:
        """One sequence right behind the other, from 0 on."""
        counts = np.asarray(sizes, dtype=np.int32)
        return cls(np.cumsum(counts, dtype=np.int32) - counts, counts, device)

    @classmethod
    @lru_cache(256)
    def alone(cls, size: int, device: torch.device) -> Packing:
        """One sequence; remembered, for its bounds are copied to the device."""
        return cls.of([size], device)

    def with_hole(self, older_SK: Tensor, newer: Packing) -> Packing:
        """The same of entries whose newer ones stand as `newer` says, the last of each sequence's, with padding between
        them and the older ones, of which each head has so many, [S, K] int32."""
        holed = replace(self, hole=(older_SK, self.bounds[1] - newer.bounds[1]))
        vars(holed)["bounds"] = self.bounds  # on the device already: a copy in every layer would have the host wait
        return holed

    def part(self, sequences: slice) -> Packing:
        """Some of the sequences, one right behind the other, counted from the first of them."""
        return Packing.of(self.sizes[sequences], self.device)

    def newest(self, most: int) -> Packing:
        """The last tokens of each sequence, `most` of them at most."""
        sizes = np.minimum(self.sizes, most)
        return Packing(self.starts + self.sizes - sizes, sizes, self.device)

    @property
    def slices(self) -> list[slice]:
        """The sequences' parts."""
        return [slice(a, a + size) for a, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True)]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.sizes.max(initial=0))

    @cached_property
    def bounds(self) -> Tensor:
        """[2, S] int32 on the device: starts and sizes."""
        return _upload(np.stack((self.starts, self.sizes)), self.device)

    @cached_property
    def stops(self) -> Tensor:
        """[S + 1] int32 on the device: 0, and where each sequence ends, of sequences that stand as `of` puts them."""
        return _upload(np.append(0, self.starts + self.sizes).astype(np.int32), self.device)

    def per_token(self, number_S: Tensor) -> Tensor:
        """A number of each sequence, [S], for each of its tokens, [N]."""
        if len(self.sizes) == 1:
            return number_S.expand(int(self.sizes[0]))
        return number_S.repeat_interleave(self.bounds[1], output_size=int(self.sizes.sum()))

    @property
    def even(self) -> bool:
        """Whether all sequences are of one length."""
        return bool((self.sizes == self.sizes[:1]).all())

    def unpack(self, packed_KN: Tensor, length: int | None = None) -> Tensor:
        """What stands side by side, each sequence on its own.

        Args:
            packed_KN: [K, N, ...], nothing in it but the sequences.
            length: to which they are padded with anything; that of the longest by default.

        Returns:
            [S, K, length, ...]; a view where no sequence needs padding.
        """
        size = self.longest if length is None else length
        if not (self.even and size == self.longest):
            packed_KN = packed_KN.index_select(1, self._places(size)[0])
        apart_SKN: Tensor = packed_KN.unflatten(1, (len(self.sizes), size)).transpose(0, 1)
        return apart_SKN

    def pack(self, apart_SKN: Tensor) -> Tensor:
        """The inverse of `unpack`: [S, K, length, ...] to [K, N, ...]."""
        side_by_side = apart_SKN.transpose(0, 1).flatten(1, 2)
        size = apart_SKN.shape[2]
        if self.even and size == self.longest:
            return side_by_side
        return side_by_side.index_select(1, self._places(size)[1])

    def padding(self) -> Tensor | None:
        """[S, 1, longest] bool, what `unpack` has filled up; None for nothing."""
        if self.even:
            return None
        return torch.arange(self.longest, device=self.device) >= self.bounds[1][:, None, None]

    def _places(self, length: int) -> tuple[Tensor, Tensor]:
        """Where each of [S * length] comes from, and each of [N] goes to; int64."""
        place = self._remembered.get(length)
        if place is None:
            within = np.arange(length)
            source = self.starts[:, None] + np.minimum(within, np.maximum(self.sizes[:, None] - 1, 0))
            source = np.minimum(source, max(0, int(self.sizes.sum()) - 1))
            target = np.flatnonzero(within < self.sizes[:, None])
            place = _upload(source.reshape(-1), self.device), _upload(target, self.device)
            self._remembered[length] = place
        return place

    @cached_property
    def _remembered(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}


def _upload(numbers: np.ndarray, device: torch.device) -> Tensor:
    """On the device, without a wait."""
    found = torch.from_numpy(numbers)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found


def unpack_entries(entries: Entries, packing: Packing) -> Entries:
    """Packed entries, [K, N], each sequence on its own: [S, K, longest], padded at position NEVER."""
    apart, padding = entries.map(packing.unpack), packing.padding()
    return apart if padding is None else apart._replace(position=apart.position.masked_fill(padding, NEVER))
