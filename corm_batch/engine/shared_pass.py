"""SharedPass: a forward pass over whole prompts that several policies have together; each keeps entries of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.batch import PrefillBatch, side_by_side
from corm_batch.engine.looks import CausalLook, Looks
from corm_batch.engine.rows import PackedRows
from corm_batch.ops.pages import Entries
from corm_batch.policies.base import KVPolicy


class SharedPass:
    """A forward pass over whole prompts for several batches, each of which has all of them or some.

    Args:
        batches: by label, of one model.

    Attributes:
        seconds: by label, in which entries were voted on, chosen and stored, or would have been by itself.
        spent_s: in which that was done for all.
    """

    def __init__(self, batches: Mapping[str, PrefillBatch]) -> None:
        self.batches = batches
        self.seconds, self.spent_s = dict.fromkeys(batches, 0.0), 0.0
        self._votes = {label: _votes_of(label, batch.evictions.policies) for label, batch in batches.items()}
        self._spans = {
            label: {span.sequence.request.id: span for span in batch.spans} for label, batch in batches.items()
        }
        every = {name: span for spans in self._spans.values() for name, span in spans.items()}
        self._names, self._any = list(every), list(every.values())
        device = next(iter(batches.values())).cache.device
        self.input_ids = torch.from_numpy(np.concatenate([span.token_ids for span in self._any])).to(device)
        lengths = [span.num_tokens for span in self._any]
        self.positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        self.logit_rows = torch.from_numpy(np.cumsum(lengths) - 1).to(device)
        self.rows = PackedRows(lengths, self.positions)
        layers = next(iter(batches.values())).cache.layers
        self._looks, self.borrowing = Looks(layers), layers.borrowers

    @property
    def left(self) -> Tensor | None:
        """[R] int64, which of the packed tokens the next layer runs; None for all."""
        return self.rows.left

    def rows_of(self, label: str) -> list[int]:
        """Which rows of the logits are those of a batch's spans, in their order."""
        return [self._names.index(name) for name in self._spans[label]]

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Attention prompt by prompt, once; every batch keeps of it what its policy does."""
        first, looks = next(iter(self.batches.values())), self._looks.of(layer)
        batches = {} if layer in self.borrowing else self.batches  # who borrows leaves nothing behind
        outs, stay, layer, decides = [], [], first.cache.layers.row(layer), first.evictions.decides(layer)
        for number, (name, any_span) in enumerate(zip(self._names, self._any, strict=True)):
            part = self.rows.part(number, number + 1)
            packed = query_HTD[:, part.rows], key_KTD[:, part.rows], value_KTD[:, part.rows]
            own = CausalLook(first.cache.ops, *packed[1:], part)
            look = looks.see(own, packed[2]) if batches else looks.borrowed()
            out_HRD, lse_HR = look(packed[0], features)
            if decides:
                stay.append(first.evictions.keep_rows(any_span, (*packed, part.step_R), lse_HR, features))
            votes: dict[str, tuple[Entries, float]] = {}
            for label, batch in batches.items():
                if (span := self._spans[label].get(name)) is not None:
                    started, key = self._now(), self._votes[label]
                    if key not in votes:
                        entries = batch.voted([span], layer, *packed, part, lse_HR, features)
                        votes[key] = entries, self._now() - started
                    entries, voting_s = votes[key]
                    voted = self._now()
                    batch.keep([span], layer, entries, part, packed, part.packing)
                    done = self._now()
                    self.seconds[label] += voting_s + done - voted
                    self.spent_s += done - started
            outs.append(out_HRD)
        if decides:
            self.rows.leave(torch.cat(stay), self.logit_rows)
        return side_by_side(outs)

    def _now(self) -> float:
        """When the device has done what it was given: the next policy's seconds are not to be this one's."""
        if self.input_ids.is_cuda:
            torch.cuda.synchronize(self.input_ids.device)
        return time.monotonic()


def _votes_of(label: str, policies: Sequence[KVPolicy]) -> str:
    """What a prompt's votes depend on: everything of a policy but how much may be held. One that has the model read
    more behind a prompt takes notes meanwhile, which are nobody else's."""
    if any(policy.needs.extra_passes for policy in policies):
        return label
    return "\n".join(f"{policy.name} {policy.model_dump_json(exclude={'budget'})}" for policy in policies)
