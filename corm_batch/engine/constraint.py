"""Constraint: the masks of the rows whose answers have a grammar, filled on the host while the device is busy.

The rows' tokens come to the host behind the step that chose them, and the mask for the next goes back before that one
chooses: the forward pass between the two is under way by then, captured or not, and other rows know nothing of it.
"""

from __future__ import annotations

import math
from collections import abc

import torch
from torch import Tensor

from corm_batch.engine.sequence import Row
from corm_batch.grammar.matcher import Matcher, fill


class Constraint:
    """C of S rows for some steps.

    Args:
        rows: all of them; of one sequence they are neighbours, in the order of its answer.
        device: of their logits.
    """

    def __init__(self, rows: abc.Sequence[Row], device: torch.device) -> None:
        found = [(i, row, row.sequence.matcher) for i, row in enumerate(rows)]
        places = [i for i, _, matcher in found if matcher is not None]
        self._matchers = [matcher for _, _, matcher in found if matcher is not None]
        self._written = [list(rows[i].sequence.answer[: rows[i].num_new]) for i in places]
        self._rows = torch.tensor(places).to(device)
        on_gpu = device.type == "cuda"
        # copies from and to memory like this are the device's to make, while the host goes on
        self._mask = torch.zeros((len(places), self._matchers[0].num_words), dtype=torch.int32, pin_memory=on_gpu)
        self._newest = torch.zeros(len(places), dtype=torch.int64, pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None
        self._bits = torch.arange(32, dtype=torch.int32, device=device)
        self._is_behind = False

    @classmethod
    def of(cls, rows: abc.Sequence[Row], device: torch.device) -> Constraint | None:
        """That of some rows; None where no answer has a grammar."""
        return cls(rows, device) if any(row.sequence.matcher is not None for row in rows) else None

    def apply(self, logits_SV: Tensor) -> Tensor:
        """The logits with -inf where the rows' grammars do not allow a token."""
        if self._is_behind:
            self._read_newest()
        self._fill()
        words = self._mask.to(logits_SV.device, non_blocking=True)
        allowed = ((words[:, :, None] >> self._bits) & 1).bool().flatten(1)[:, : logits_SV.shape[1]]
        return logits_SV.index_copy(0, self._rows, logits_SV[self._rows].masked_fill(~allowed, -math.inf))

    def note(self, tokens_S: Tensor) -> None:
        """Take note of the tokens that were chosen, before the next step; does not wait for them."""
        self._newest.copy_(tokens_S[self._rows], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self._is_behind = True

    def _read_newest(self) -> None:
        """Put down the tokens last noted, once they are here."""
        if self._copied is not None:
            self._copied.synchronize()
        for written, token in zip(self._written, self._newest.tolist(), strict=True):
            written.append(token)
        self._is_behind = False

    def _fill(self) -> None:
        """Make the masks of all rows, those of one answer one after the other."""
        mask, start = self._mask.numpy(), 0
        group: list[Matcher] = []
        for place, (matcher, written) in enumerate(zip(self._matchers, self._written, strict=True)):
            if group and group[-1] is matcher:
                fill(group, mask[start:place])
                group, start = [], place
            matcher.follow(written)
            group.append(matcher)
        fill(group, mask[start:])
