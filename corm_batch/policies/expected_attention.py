"""Expected Attention: keep what queries to come are expected to attend to, as a prompt's own queries suggest."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.ops.pages import NEVER, Column, Entries
from corm_batch.ops.rotary import turn_moments
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.needs import Needs
from corm_batch.policies.reading import Reading, answer_score
from corm_batch.policies.with_budgets import with_budgets

_TILE = 2048
"""Keys whose products with covariances are held at a time."""


class ExpectedAttention(ScoringPolicy, name="expected_attention"):
    """Keep the keys of the most expected attention, times the norm of their values.

    Based on Expected Attention (arXiv 2510.00636), section 3. A head's queries without their rotary position have a
    mean and a covariance, taken over the prompt but for its first `pin_first` tokens; both are turned by the rotation
    of the next `ahead` positions, on average. Were queries normal with these, a key's expected logit would be
    k mu s + k Sigma k s^2 / 2, s the scale of logits. Its softmax over keys, the mean over a group's query heads, times
    the norm of the value, is the score. Deviations:
    * the answer's own entries stay before the prompt's as long as the budget has room for them, and its queries do not
      change the moments: scores are taken when a prompt, or a chunk, has been read.
    * streaming prefill goes by the moments of all queries read so far, and the softmax is over the entries still held.
    """

    pin_first: int = Field(4, ge=0, description="first entries that never leave, and whose queries do not count")
    recent: int = Field(0, ge=0, description="newest entries that never leave, part of the budget (the paper: 0)")
    ahead: int = Field(512, ge=1, description="positions to come over which rotations are averaged")
    covariance: bool = Field(True, description="whether the spread of queries counts, or their mean alone")
    epsilon: float = Field(0.0, ge=0.0, description="added to an expected weight before the value's norm multiplies it")

    columns: ClassVar[tuple[Column, ...]] = (Column("score"),)

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """With heads that compete, as the paper has it."""
        return with_budgets(cls, (0.5, 0.25), "adakv")

    @property
    def needs(self) -> Needs:
        """A prompt's queries without their positions."""
        return Needs(prompt=True, rotary=True)

    def born(self, layer: int, key: Tensor, value: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """An answer's, until a prompt says otherwise."""
        return (answer_score(position),)

    def observe(self, layer: int, entries: Entries, reading: Reading) -> Entries:
        """Scores of all entries by the queries read so far."""
        assert reading.rotary is not None
        skipped = max(0, self.pin_first - reading.start)
        still = reading.rotary.undo(reading.query, reading.step - 1)[:, skipped:]
        if still.shape[1]:
            _note(reading.memory, still)
        if not reading.memory:
            return entries
        cos, sin = reading.rotary.ahead(reading.stop, self.ahead)
        mean, spread = reading.memory["mean"], reading.memory["scatter"] / reading.memory["count"]
        mean, spread = turn_moments(mean, spread, cos, sin)
        logit = self._logits(entries.key, mean, spread, reading.scale)
        logit.masked_fill_(((entries.position == NEVER) | (entries.position <= self.pin_first))[:, None], -torch.inf)
        weight = torch.softmax(logit, dim=-1).mean(dim=1) + self.epsilon
        return entries._replace(own=(weight * entries.value.float().norm(dim=-1),))

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """As the prompt left it."""
        return entries["score"]

    def _logits(self, key_KND: Tensor, mean_HD: Tensor, spread_HDD: Tensor, scale: float) -> Tensor:
        """Expected logits, [K, G, N]."""
        num_heads, width = key_KND.shape[0], key_KND.shape[-1]
        mean, spread = mean_HD.view(num_heads, -1, width), spread_HDD.view(num_heads, -1, width, width)
        tiles = []
        for key in key_KND.float().split(_TILE, dim=1):
            logit = torch.matmul(mean, key.transpose(-1, -2)) * scale
            if self.covariance:
                logit += (torch.matmul(key[:, None], spread) * key[:, None]).sum(dim=-1) * (scale**2 / 2)
            tiles.append(logit)
        return torch.cat(tiles, dim=-1)


def _note(memory: dict[str, Any], query_HRD: Tensor) -> None:
    """Add queries to the count, mean and scatter of those before, without the cancellation of plain sums."""
    count = query_HRD.shape[1]
    mean = query_HRD.mean(dim=1)
    centred = query_HRD - mean[:, None]
    scatter = torch.matmul(centred.transpose(-1, -2), centred)
    if memory:
        before, total = memory["count"], memory["count"] + count
        shift = mean - memory["mean"]
        scatter += memory["scatter"] + shift[:, :, None] * shift[:, None] * (before * count / total)
        mean, count = memory["mean"] + shift * (count / total), total
    memory.update(count=count, mean=mean, scatter=scatter)
