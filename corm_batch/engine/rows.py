"""Rows of a pass over prompts: which tokens a layer runs, all of them or those that have not been left behind.

Knows nothing of why any are left behind, nor of what is done with the others.
"""

from __future__ import annotations

from collections import abc
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
        step_R, count_R: [R] int32, their steps, and as those that vote count them; see `counted`.
        packing: where the rows of each span stand among these.
        num_missing: [S] int32, how many tokens of each span have been left behind; None where none has been.
        voting: what `newest` remembers.
    """

    rows: slice
    step_R: Tensor
    count_R: Tensor
    packing: Packing
    num_missing: Tensor | None
    voting: dict[int, Packing]

    @property
    def all_there(self) -> bool:
        """Whether none of the spans' tokens has been left behind."""
        return self.num_missing is None

    def newest(self, most: int) -> Packing:
        """The last rows of each span, `most` of them at most; remembered for the layers to come."""
        if most not in self.voting:
            self.voting[most] = self.packing.newest(most)
        return self.voting[most]

    def counted(self, entries: Entries, last_KN: Tensor, where: Packing) -> tuple[Entries, Tensor]:
        """Entries, and the last steps that attention lets see them, as those that vote count the tokens of a span: as
        many as are there, the newest at its own step.

        So a policy's window is as many queries of a layer, and its newest entries are as many, whatever was left
        behind; where nothing was, counts are steps. Expiries beyond the pass are steps again.

        Args:
            entries: [K, N], the rows' own as the last of each span's, their expiries counted already where votes make
                them.
            last_KN: int32; NEVER throughout where votes make expiries.
            where: where each span's entries stand.
        """
        if self.num_missing is None:
            return entries, last_KN
        (start_S, size_S), (row_S, num_rows_S) = where.bounds, self.packing.bounds
        span_S = torch.arange(len(row_S), device=row_S.device)
        span_N, span_R = where.per_token(span_S), self.packing.per_token(span_S)
        row_N = torch.arange(last_KN.shape[1], device=row_S.device) - (start_S + size_S - num_rows_S)[span_N]
        own_N = row_N >= 0
        position = torch.where(own_N, self.count_R[row_S[span_N] + row_N.clamp(min=0)], entries.position)
        # Of what was there before, votes count the time since by the tokens that are there.
        missing_N = self.num_missing[span_N].masked_fill(own_N, 0)
        expiry = torch.where(entries.expiry >= NEVER - missing_N, NEVER, entries.expiry + missing_N)
        # One search for all spans: a step is looked for among those of its own.
        steps, sought = (span_R << 32) + self.step_R, (span_N << 32) + last_KN
        rows = torch.searchsorted(steps, sought, right=True, out_int32=True)
        return entries._replace(position=position, expiry=expiry), rows + (self.count_R[row_S] - 1 - row_S)[span_N]


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
        self._every = self._stops = np.cumsum(lengths)
        self.step_R = self._count_R = (positions + 1).int()
        self.left: Tensor | None = None
        self._parts: dict[tuple[int, int], Part] = {}

    def part(self, first: int, stop: int) -> Part:
        """The rows of the spans from `first` to before `stop`."""
        if (part := self._parts.get((first, stop))) is None:
            stops = self._stops[first:stop]
            rows = slice(int(self._stops[first - 1]) if first else 0, int(stops[-1]))
            packing = Packing.of(np.diff(stops, prepend=rows.start), self.step_R.device)
            missing = None
            if self.left is not None:
                sizes = np.diff(self._every, prepend=0)[first:stop] - packing.sizes
                missing = torch.from_numpy(sizes.astype(np.int32)).to(self.step_R.device)
            part = Part(rows, self.step_R[rows], self._count_R[rows], packing, missing, {})
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
