"""Constraint: the masks of the rows whose answers have a grammar, filled on the host while the device is busy.

The rows' tokens come to the host behind the step that chose them, and the mask for the next goes back before that one
chooses: the forward pass between the two is under way by then, captured or not, and other rows know nothing of it.
What is done here for every row and step has to take less than that pass: anything longer is the device's to wait for.
"""

from __future__ import annotations

from collections import abc

import torch
from torch import Tensor

from corm_batch.engine.sequence import Row
from corm_batch.grammar.matcher import Matcher, fill, take_all
from corm_batch.ops.select import select_mask


class Constraint:
    """C of S rows for some steps.

    Args:
        rows: all of them; of one sequence they are neighbours, in the order of its answer.
        device: of their logits.
    """

    def __init__(self, rows: abc.Sequence[Row], device: torch.device) -> None:
        held = [(place, row.sequence.matcher) for place, row in enumerate(rows) if row.sequence.matcher is not None]
        held.sort(key=lambda one: one[1].lexer)  # neighbours are one thread's; those of one answer stay neighbours
        self._places, self._matchers = [place for place, _ in held], [matcher for _, matcher in held]
        self._held = [rows[place] for place in self._places]
        is_scored = [row.sequence.request.answer_ids is not None for row in self._held]
        self._choosing = [one for one, scored in zip(held, is_scored, strict=True) if not scored]
        self._scored = [one for one, scored in zip(held, is_scored, strict=True) if scored]  # of tokens of any kind
        self._rows = torch.tensor(self._places).to(device)
        on_gpu = device.type == "cuda"
        # copies from and to memory like this are the device's to make, while the host goes on
        size = len(self._places), self._matchers[0].num_words
        self._mask = torch.empty(size, dtype=torch.int32, pin_memory=on_gpu)
        self._newest = torch.empty(len(rows), dtype=torch.int64, pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None
        self._is_behind = False
        self._apply = select_mask(device)

    @classmethod
    def of(cls, rows: abc.Sequence[Row], device: torch.device) -> Constraint | None:
        """That of some rows; None where no answer has a grammar."""
        return cls(rows, device) if any(row.sequence.matcher is not None for row in rows) else None

    def apply(self, logits_SV: Tensor) -> None:
        """Put -inf where the rows' grammars do not allow a token: [S, V] float32, changed in place."""
        if self._is_behind:
            self._go_on()
        else:
            self._begin()
        self._apply(logits_SV, self._rows, self._mask.to(logits_SV.device, non_blocking=True))

    def note(self, tokens_S: Tensor) -> None:
        """Take note of the tokens that were chosen, before the next step; does not wait for them."""
        self._newest.copy_(tokens_S, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self._is_behind = True

    def _begin(self) -> None:
        """Make the masks of all rows where they stand, those of one answer one after the other."""
        mask, start = self._mask.numpy(), 0
        group: list[Matcher] = []
        for place, (matcher, row) in enumerate(zip(self._matchers, self._held, strict=True)):
            if group and group[-1] is matcher:
                fill(group, mask[start:place])
                group, start = [], place
            matcher.follow(row.sequence.answer[: row.num_new])
            group.append(matcher)
        fill(group, mask[start:])

    def _go_on(self) -> None:
        """Make the masks behind the tokens last noted, once these are here."""
        if self._copied is not None:
            self._copied.synchronize()
        tokens = self._newest.tolist()
        take_all([(matcher, tokens[place]) for place, matcher in self._choosing])
        for place, matcher in self._scored:
            matcher.take(tokens[place])
        fill(self._matchers, self._mask.numpy())
