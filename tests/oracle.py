"""The literal CORM algorithm, one token at a time: dense, float32, a boolean message of `window` rows per kv head.

Written from the paper's Algorithm 1 and independent of the package: nothing of it is imported here.
"""

from __future__ import annotations

from functools import cache

import torch
from transformers import AttentionInterface, AutoModelForCausalLM

NEAR = 1e-5
"""Entries whose weight came this close to the threshold (relative) may fall on either side of it."""


@cache
def load(folder):
    """The model of a folder, once a process; its attention is that of the oracle that registered last."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="corm_oracle")


class Oracle:
    """Runs a model token by token and keeps what the algorithm keeps.

    Args:
        window, recent: the paper's w and r.
        tau, threshold, reach, max_kept: the scale, divisor, neighbourhood and bound added to it.
        evict_from: the first step at whose end anything may leave (an exact prefill evicts at the end of the prompt).
    """

    def __init__(self, window, recent, tau=1.0, threshold="step", reach=0, max_kept=None, evict_from=1):
        self.window, self.recent, self.tau, self.threshold, self.reach = window, recent, tau, threshold, reach
        self.max_kept, self.evict_from = max_kept, evict_from
        self.heads = {}  # (layer, kv head) -> dict of keys, values, positions, message, last hit
        self.near = set()  # (layer, kv head, position) that came close to the threshold
        self.step = 0

    def attend(self, layer, query, key, value, scale):
        """One query [H, D] and one new key and value [K, D] of a layer -> [H, D]."""
        group = query.shape[0] // key.shape[0]
        outs = []
        for head in range(key.shape[0]):
            held = self.heads.setdefault((layer, head), None)
            mine = query[head * group : (head + 1) * group]
            out, self.heads[layer, head] = self.one_head(layer, head, held, mine, key[head], value[head], scale)
            outs.append(out)
        return torch.cat(outs)

    def one_head(self, layer, head, held, query, key, value, scale):
        """Attention of one kv head's group, then Algorithm 1."""
        t = self.step
        if held is None:
            held = {"k": torch.zeros(0, len(key)), "v": torch.zeros(0, len(value)), "p": [],
                    "m": torch.zeros(0, 0, dtype=torch.bool), "last": []}  # fmt: skip
        keys, values = torch.cat((held["k"], key[None])), torch.cat((held["v"], value[None]))
        positions, last = [*held["p"], t], [*held["last"], 0]
        attention = torch.softmax(query @ keys.T * scale, dim=-1)
        limit = self.tau / (t if self.threshold == "step" else len(positions))
        current = (attention >= limit).any(0)
        for index in ((attention / limit - 1).abs() < NEAR).any(0).nonzero()[:, 0].tolist():
            self.near.add((layer, head, positions[index]))
        if self.reach:
            hits = [positions[i] for i in current.nonzero()[:, 0].tolist()]
            current = torch.tensor([any(abs(p - q) <= self.reach for q in hits) for p in positions])
        last = [t if hit else before for hit, before in zip(current.tolist(), last, strict=True)]
        old = torch.cat((held["m"], torch.zeros(len(held["m"]), 1, dtype=torch.bool)), dim=1)
        message = torch.cat((old, current[None]))[-self.window :]
        keep = torch.ones(len(positions), dtype=torch.bool)
        if t >= self.evict_from:
            if len(message) >= self.window:
                keep = message.any(0)
                keep[-self.recent :] = True
            self.bound(keep, positions, last, t)
        index = keep.nonzero()[:, 0]
        held = {"k": keys[index], "v": values[index], "p": [positions[i] for i in index], "m": message[:, index],
                "last": [last[i] for i in index]}  # fmt: skip
        return attention @ values, held

    def bound(self, keep, positions, last, t):
        """Drop the longest not found important, then the oldest, never one of the newest `recent`."""
        while self.max_kept is not None and int(keep.sum()) > self.max_kept:
            old = [i for i in keep.nonzero()[:, 0].tolist() if positions[i] <= t - self.recent]
            keep[min(old, key=lambda i: (last[i], positions[i]))] = False

    def run(self, folder, token_ids):
        """Feed the tokens one by one."""
        AttentionInterface.register("corm_oracle", self.forward)
        model = load(folder)
        with torch.inference_mode():
            for position, token in enumerate(token_ids):
                self.step = position + 1
                model(torch.tensor([[token]]), position_ids=torch.tensor([[position]]), use_cache=False)
        return self

    def forward(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        """transformers' attention signature."""
        out = self.attend(module.layer_idx, query[0, :, 0], key[0, :, 0], value[0, :, 0], scaling)
        return out[None, None], None

    def kept(self, layer, head):
        """0-based token indices held."""
        return {position - 1 for position in self.heads[layer, head]["p"]}

    def close_calls(self, layer, head):
        """0-based token indices that came close to the threshold."""
        return {position - 1 for where, which, position in self.near if (where, which) == (layer, head)}
