"""FastGen: every head keeps the least that holds most of its attention: special tokens, signs, heavy hitters ..."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.ops.dense import attention_scores, row_tiles
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.policies.base import EvictingPolicy
from corm_batch.policies.model import Model
from corm_batch.policies.needs import Needs
from corm_batch.policies.reading import Reading


class FastGen(EvictingPolicy, name="fastgen"):
    """Keep in each head the least of five that holds a share `recovery` of the attention of the prompt's queries.

    Based on FastGen (arXiv 2310.01801), section 3: special tokens; these and punctuation; these and the tokens of most
    attention in all; these and the newest; everything. It is decided once, at the end of the prompt. Deviations:
    * a kv head's attention is the mean of its query heads, so that grouped-query attention shares entries.
    * how much is recovered is the attention that lies on what would be kept, the mean over the prompt's queries, as in
      cold-compress; the paper says it of attention maps whose softmax is over what is kept.
    * the answer's own entries all stay: there are few of them beside a document's.
    * nothing leaves before the end of the prompt: streaming prefill needs no less room than exact prefill.
    """

    recovery: float = Field(0.95, ge=0.0, le=1.0, description="share of attention that what is kept must hold")
    frequency: float = Field(0.3, ge=0.0, le=1.0, description="share of the prompt's tokens that are heavy hitters")
    local: float = Field(0.3, ge=0.0, le=1.0, description="share of the prompt's length that is near a query")
    special_ids: tuple[int, ...] | None = Field(None, description="special tokens; null: the tokenizer's")
    punctuation_ids: tuple[int, ...] | None = Field(None, description="tokens of signs; null: the tokenizer's")

    @property
    def needs(self) -> Needs:
        """A prompt's queries, and its tokens by kind unless they are given."""
        return Needs(prompt=True, vocabulary=self.special_ids is None or self.punctuation_ids is None)

    def for_model(self, model: Model) -> Self:
        """With the model's own tokens where none are given."""
        if model.vocabulary is None:
            return self
        special, punctuation = model.vocabulary
        return self.model_copy(
            update={
                "special_ids": special if self.special_ids is None else self.special_ids,
                "punctuation_ids": punctuation if self.punctuation_ids is None else self.punctuation_ids,
            }
        )

    def observe(self, layer: int, entries: Entries, reading: Reading) -> Entries:
        """At the end of the prompt, the expiries that each head's choice gives; before it, attention is summed up."""
        window = math.ceil(self.local * reading.num_prompt_tokens)
        held = entries.position != NEVER
        index = torch.where(held, entries.position - 1, 0).long()
        notes = reading.memory
        # By position; a token that did not come as far as this layer is of no kind.
        tokens = torch.full((reading.stop,), -1, dtype=torch.int64, device=held.device)
        tokens[reading.step.long() - 1] = reading.token_ids
        num_rows = notes.get("num_rows", 0) + reading.num_rows
        found = [
            torch.zeros(len(held), reading.stop, device=held.device).scatter_add_(1, index, sums.masked_fill(~held, 0))
            for sums in _attention(entries, reading, window)
        ]
        for sums, name in zip(found, ("mass", "near"), strict=True):
            if notes:
                sums[:, : reading.start] += notes[name]
        if notes:
            tokens[: reading.start] = notes["tokens"]
        mass, near = found
        notes.update(tokens=tokens, mass=mass, near=near, num_rows=num_rows)
        if not reading.ends_prompt:
            return entries
        expiry = self._chosen(tokens, mass, near, window, num_rows)
        return entries._replace(expiry=torch.where(held, expiry.gather(1, index), entries.expiry))

    def _chosen(self, token_T: Tensor, mass_KT: Tensor, near_KT: Tensor, window: int, num_rows: int) -> Tensor:
        """[K, T] int32 expiries at the end of the prompt: of the cheapest rule of each head that recovers enough of
        what `num_rows` queries gave."""
        length, device = len(token_T), token_T.device
        position = torch.arange(1, length + 1, dtype=torch.int32, device=device)
        special, signs = (
            torch.isin(token_T, torch.tensor(ids or (), dtype=torch.int64, device=device))
            for ids in (self.special_ids, self.punctuation_ids)
        )
        order = mass_KT.argsort(dim=-1, descending=True, stable=True)
        often = torch.zeros_like(mass_KT, dtype=torch.bool)
        often.scatter_(1, order[:, : int(self.frequency * num_rows)], True)
        kept = [special.expand_as(often), (special | signs).expand_as(often), often | special | signs]
        recovered = [mass_KT.masked_fill(~keep, 0.0).sum(dim=-1) for keep in kept]
        recovered.append(torch.where(kept[-1], mass_KT, near_KT).sum(dim=-1))
        expiries = [torch.where(keep, NEVER, length) for keep in kept]
        expiries.append(torch.where(kept[-1], NEVER, (position + (window - 1)).clamp(min=length)))
        expiries.append(torch.full_like(often, NEVER, dtype=torch.int32))
        enough = torch.stack([*recovered, torch.full_like(recovered[0], torch.inf)]) >= self.recovery * num_rows
        rule = enough.int().argmax(dim=0)  # the first
        return torch.stack(expiries).int().gather(0, rule[None, :, None].expand(1, -1, length))[0]


def _attention(entries: Entries, reading: Reading, window: int) -> tuple[Tensor, Tensor]:
    """What the queries gave each entry, [K, N], mean over the group: all of it, and that of the nearest queries."""
    mass = torch.zeros(entries.position.shape, device=entries.position.device)
    near, position = torch.zeros_like(mass), entries.position[:, None]
    for rows in row_tiles(reading.num_rows, reading.query.shape[0], entries.position.shape[-1]):
        step = reading.step[rows, None]
        scores = attention_scores(reading.query[:, rows], entries.key, reading.scale, reading.softcap)
        weight = torch.exp(scores - reading.lse[:, rows].view(*scores.shape[:3], 1)).mean(dim=1)
        weight.masked_fill_(position > step, 0.0)
        mass += weight.sum(dim=1)
        near += weight.masked_fill_(position <= step - window, 0.0).sum(dim=1)
    return mass, near
