"""Rows of a pass over prompts: which tokens a layer runs, all of them or those that have not been left behind.

Knows nothing of why any are left behind, nor of what is done with the others.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries


class Part(NamedTuple):
    """The rows of neighbouring spans.

    Attributes:
        rows: where they stand among those that are there.
        step_R, count_R: [R] int32, their steps, and as those that vote count them; see `Count`.
        packing: where the rows of each span stand among these.
        all_there: whether none of their tokens has been left behind.
        voting: what `newest` remembers.
    """

    rows: slice
    step_R: Tensor
    count_R: Tensor
    packing: Packing
    all_there: bool
    voting: dict[int, Packing]

    def newest(self, most: int) -> Packing:
        """The last rows of each span, `most` of them at most; remembered for the layers to come."""
        if most not in self.voting:
            self.voting[most] = self.packing.newest(most)
        return self.voting[most]


class PackedRows:
    """The tokens of several spans that a layer runs, packed; later layers may run fewer.

    Args:
        lengths: tokens of each span.
        positions: [T] int64, their 0-based positions.

    Attributes:
        step_R: [R] int32, the steps of those that are there.
        left: [R] int64, which of the pass's tokens these are; None for all.
    """

    def __init__(self, lengths: abc.Sequence[int], positions: Tensor) -> None:
        self._stops = np.cumsum(lengths)
        self.step_R = self._count_R = (positions + 1).int()
        self.left: Tensor | None = None
        self._parts: dict[tuple[int, int], Part] = {}

    def part(self, first: int, stop: int) -> Part:
        """The rows of the spans from `first` to before `stop`."""
        if (part := self._parts.get((first, stop))) is None:
            stops = self._stops[first:stop]
            rows = slice(int(self._stops[first - 1]) if first else 0, int(stops[-1]))
            packing = Packing.of(np.diff(stops, prepend=rows.start), self.step_R.device)
            part = Part(rows, self.step_R[rows], self._count_R[rows], packing, self.left is None, {})
            self._parts[first, stop] = part
        return part

    def of(self, number: int) -> slice:
        """Where those of a span stand among those that are there; every span has at least one."""
        return slice(int(self._stops[number - 1]) if number else 0, int(self._stops[number]))

    def leave(self, stay_R: Tensor, logit_rows: Tensor) -> None:
        """Go on without some, once; waits for the device.

        Args:
            stay_R: [R] bool, those that go on.
            logit_rows: [S] int64, rows of the pass that go on; told in place which rows they are from now on, because
                the model's head has been given them by then.
        """
        left = stay_R.nonzero()[:, 0]
        if len(left) == len(stay_R):
            return
        logit_rows.copy_(torch.searchsorted(left, logit_rows))
        self._stops = np.searchsorted(left.cpu().numpy(), self._stops)
        self.step_R, self.left = self.step_R[left], left
        self._parts.clear()
        every = Packing.of(np.diff(self._stops, prepend=0), left.device)
        newest = every.stops[1:] - 1
        shift = every.per_token(self.step_R[newest] - newest)
        self._count_R = torch.arange(len(left), dtype=torch.int32, device=left.device) + shift


@dataclass(frozen=True)
class Count:
    """How those that vote count the tokens of a span: as many as are there, the newest at its own step.

    So a policy's window is as many queries of a layer, and its newest entries are as many, whatever was left behind;
    without that, counts are steps. Expiries beyond the pass are steps again.

    Attributes:
        step_R: [R] int32, the steps of the tokens that are there.
        stop: the last of them.
        num_tokens: of the span, those left behind included.
    """

    step_R: Tensor
    stop: int
    num_tokens: int

    @property
    def num_missing(self) -> int:
        """Tokens that were left behind."""
        return self.num_tokens - len(self.step_R)

    @cached_property
    def count_R(self) -> Tensor:
        """[R] int32, each one more than the one before."""
        if not self.num_missing:
            return self.step_R
        return torch.arange(
            self.stop - len(self.step_R) + 1, self.stop + 1, dtype=torch.int32, device=self.step_R.device
        )

    def entries(self, entries: Entries, last_KN: Tensor) -> tuple[Entries, Tensor]:
        """Entries, and the last steps that attention lets see them, as the tokens are counted.

        Args:
            entries: [K, N], the span's own as the last R of every head, their expiries counted already where votes
                make them.
            last_KN: int32; NEVER throughout where votes make expiries.
        """
        if not self.num_missing:
            return entries, last_KN
        count, before = self.count_R, entries.position.shape[-1] - len(self.step_R)
        own = count.expand(len(entries.position), -1)
        position = torch.cat((entries.position[:, :before], own), dim=-1)
        # Of what was there before, votes count the time since by the tokens that are there.
        old = entries.expiry[:, :before]
        old = torch.where(old >= NEVER - self.num_missing, NEVER, old + self.num_missing)
        expiry = torch.cat((old, entries.expiry[:, before:]), dim=-1)
        last = torch.searchsorted(self.step_R, last_KN, right=True, out_int32=True) + (count[0] - 1)
        return entries._replace(position=position, expiry=expiry), last
