"""Compactor: keep keys unlike the others, and those that their neighbourhood attends to; no query is awaited."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import avg_pool1d

from corm_batch.ops.pages import NEVER, Column, Entries
from corm_batch.ops.rotary import Rotary
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.needs import Needs
from corm_batch.policies.reading import Reading, answer_score
from corm_batch.policies.with_budgets import with_budgets

_JITTER = 1e-2
"""Added to the diagonal of a Gram matrix, as the authors do."""


class Compactor(ScoringPolicy, name="compactor"):
    """Keep the keys of the highest leverage and of the most attention within their part of the prompt.

    Based on Compactor (arXiv 2507.08143), as its authors wrote it for kvpress. Two scores, each less its mean and over
    its deviation in a layer, are added, the first times `blending`:
    * the approximate leverage of a key without its rotary position: x' (X' X)^-1 x, of keys less their mean, times a
      random matrix of `sketch` columns.
    * the attention it gets, without scale and without regard to order, from the queries of its `chunk` tokens, summed
      up over these, times the norm of its value; the mean of it and its two neighbours.
    The first `pin_first` and the newest `recent` entries never leave and take no part in either. Deviations:
    * a last part shorter than `chunk` stands by itself; kvpress fills it up with zeros, which take and give attention.
    * the answer's own entries stay before the prompt's as long as the budget has room for them.
    * streaming prefill takes each chunk's attention when it is read, and the leverage among the entries still held.
    Every rank of several takes the means and deviations of its own heads.
    """

    engine_fields: ClassVar[frozenset[str]] = frozenset({"tensor_parallel"})

    pin_first: int = Field(8, ge=0, description="first entries that never leave")
    recent: int = Field(4, ge=0, description="newest entries that never leave, part of the budget")
    chunk: int = Field(256, ge=1, description="tokens that attend to each other")
    sketch: int = Field(48, ge=1, description="columns of the random matrix")
    blending: float = Field(0.35, ge=0.0, description="weight of leverage beside that of attention")
    seed: int = Field(0, ge=0, lt=2**31, description="of the random matrix")

    columns: ClassVar[tuple[Column, ...]] = (Column("score"), Column("attention"))

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """One budget."""
        return with_budgets(cls, (0.25,))

    @property
    def needs(self) -> Needs:
        """A prompt's queries, and keys without their positions."""
        return Needs(prompt=True, rotary=True)

    def born(self, layer: int, key: Tensor, value: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """An answer's score, until a prompt says otherwise; no attention yet."""
        score = answer_score(position)
        return score, torch.zeros_like(score)

    def observe(self, layer: int, entries: Entries, reading: Reading) -> Entries:
        """Attention of the newest tokens' entries, and everybody's score."""
        assert reading.rotary is not None
        first = max(0, self.pin_first - reading.start)
        last = max(first, reading.num_rows - (self.recent if reading.ends_prompt else 0))
        rows = slice(entries.position.shape[-1] - reading.num_rows + first, None)
        rows = slice(rows.start, rows.start + last - first)
        _, attention = entries.own
        if last > first:
            attention = attention.clone()
            query = reading.query[:, first:last].float()
            attention[:, rows] = self._attention(query, entries.key[:, rows].float(), entries.value[:, rows].float())
        step = reading.stop - (self.recent if reading.ends_prompt else 0)
        scored = (entries.position > self.pin_first) & (entries.position <= step)
        score = self.blending * _standard(self._leverage(layer, entries, scored, reading.rotary), scored)
        score += _standard(attention, scored)
        return entries._replace(own=(score.masked_fill_(~scored, torch.inf), attention))

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """As the prompt left it."""
        return entries["score"]

    def _attention(self, query_HRD: Tensor, key_KRD: Tensor, value_KRD: Tensor) -> Tensor:
        """[K, R]: what each token's part of the prompt gives it."""
        num_heads = key_KRD.shape[0]
        query_KGRD = query_HRD.view(num_heads, -1, *query_HRD.shape[1:])
        given = []
        for start in range(0, key_KRD.shape[1], self.chunk):
            part = slice(start, start + self.chunk)
            logit = torch.matmul(query_KGRD[:, :, part], key_KRD[:, None, part].transpose(-1, -2))
            given.append(torch.softmax(logit, dim=-1).sum(dim=-2).mean(dim=1))
        weighed = torch.cat(given, dim=-1) * value_KRD.norm(dim=-1)
        return avg_pool1d(weighed, 3, stride=1, padding=1)

    def _leverage(self, layer: int, entries: Entries, scored: Tensor, rotary: Rotary) -> Tensor:
        """[K, N], of the scored entries."""
        num_heads, _, width = entries.key.shape
        position = entries.position.masked_fill(entries.position == NEVER, 1)
        key = rotary.undo(entries.key, position - 1).masked_fill(~scored[..., None], 0.0)
        mean = key.sum(dim=1, keepdim=True) / scored.sum(dim=1).clamp(min=1)[:, None, None]
        generator = torch.Generator().manual_seed(self.seed + layer)
        sketch = torch.randn(num_heads, width, self.sketch, generator=generator) / self.sketch**0.5
        x = torch.matmul((key - mean).masked_fill(~scored[..., None], 0.0), sketch.to(key.device)).double()
        gram = torch.matmul(x.transpose(-1, -2), x) + _JITTER * torch.eye(self.sketch, device=x.device).double()
        lower = torch.linalg.cholesky(gram)
        whitened: Tensor = torch.linalg.solve_triangular(lower, x.transpose(-1, -2), upper=False)
        return whitened.square().sum(dim=1).float()


def _standard(score: Tensor, scored: Tensor) -> Tensor:
    """Less the mean and over the deviation of what is scored in all heads."""
    count = scored.sum().clamp(min=2)
    mean = score.masked_fill(~scored, 0.0).sum() / count
    apart = (score - mean).masked_fill(~scored, 0.0)
    return apart / (apart.square().sum() / (count - 1)).sqrt().clamp(min=1e-6)
