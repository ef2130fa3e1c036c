"""Column reduction: what query rows found of each key, without ever storing an attention map.

With s a scaled logit and lse the log of its row's softmax denominator, a weight is a = exp(s - lse), so a >= tau / n is
s - lse >= log(tau / n): one more pass over (rows x keys) after the attention kernel, one number per key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from corm_batch.ops.dense import attention_scores, row_tiles
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries
from corm_batch.ops.spread import spread_hits
from corm_batch.ops.statistics import STATISTICS, Statistic

ALL_ROWS = 1 << 30
"""A window longer than any document; steps plus this are still int32."""


@dataclass(frozen=True)
class Reduction:
    """What a policy wants of the rows that vote.

    Attributes:
        window: newest rows that vote on a prompt; a hit at step t keeps its key visible up to step t + window.
        threshold: a hit is a weight >= tau / t ("step", t the row's own step: CORM's definition), or >= tau / n
            ("cache", n the entries that row sees), or there are no hits and only the statistic is kept (None).
        tau: scale of the threshold.
        reach: a hit also hits the entries up to this many tokens before and after its own.
        statistic: what is gathered of an entry's weights, row by row, a name of `ops.statistics.STATISTICS`: their sum,
            the sum of their squares (mean of the group's heads) or the largest, each since the entry's last hit; the
            newest row's alone ("last"); or how many rows found it no hit ("count_low"), ever.
        accumulate: False when a chunk's newest `window` rows alone say what an entry's statistic is, whatever rows of
            earlier chunks gave it.
    """

    window: int
    threshold: Literal["step", "cache"] | None = None
    tau: float = 1.0
    reach: int = 0
    statistic: str = "sum"
    accumulate: bool = True

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, got {self.statistic!r}")
        if self.gathers.power is None and self.threshold is None:
            raise ValueError(f"{self.statistic} needs a threshold: without one no weight is low")
        if self.gathers.rows == "last" and (self.window != 1 or self.threshold is not None):
            raise ValueError(f"{self.statistic} is what one row says: window must be 1, got {self.window}, and no hits")

    @property
    def gathers(self) -> Statistic:
        """The statistic, by its definition."""
        return STATISTICS[self.statistic]


def hit_rows(
    reduction: Reduction, log_weight_KGRN: Tensor, visible_KRN: Tensor, step_R: Tensor, position_KRN: Tensor
) -> Tensor:
    """Which rows find which keys important: for any query head of the kv head's group.

    Args:
        log_weight_KGRN: s - lse, -inf where not visible.
        visible_KRN: bool.
        step_R: int32.
        position_KRN: int32, broadcastable to `visible_KRN`.

    Returns:
        [K, R, N] bool.
    """
    if reduction.threshold is None:
        return torch.zeros_like(visible_KRN)
    count = step_R[:, None] if reduction.threshold == "step" else visible_KRN.sum(dim=-1, keepdim=True)
    hit = log_weight_KGRN.amax(dim=1) >= torch.log(reduction.tau / count.float())
    return spread_hits(hit, position_KRN, reduction.reach) & visible_KRN


def reduce_columns(
    reduction: Reduction,
    query_HRD: Tensor,
    lse_HR: Tensor,
    step_R: Tensor,
    entries: Entries,
    last_KN: Tensor,
    scale: float,
    softcap: float | None = None,
    *,
    gap_rule: bool,
    packing: tuple[Packing, Packing] | None = None,
) -> Entries:
    """Let consecutive query rows vote on the entries of their sequence.

    A key hit at step e stays visible up to e + window. With the gap rule a key whose first hit of a tile comes after
    its expiry is gone for good, as it would be had tokens come one at a time: tiles of at most `window` rows make this
    exact, because between the first and the last hit of such a tile no gap can reach the window. The statistic of a
    key counts from its last hit, so a sum at eviction is what the voting window still gave it.

    Args:
        query_HRD, lse_HR: the voting rows, of each sequence the oldest first.
        step_R: int32 their steps, in a sequence each one more than the one before.
        entries: [K, N], the rows' own keys included.
        last_KN: int32, the last step that attention let see each entry.
        scale, softcap: of the attention that made `lse_HR`.
        gap_rule: False when attention saw every key up to now (exact prefill), True when the rows stand for steps at
            which evictions would have happened (streaming prefill).
        packing: where the rows, and where the entries, of several sequences stand; every entry is of one of them, and
            rows of none do not vote. None: all are of one sequence.

    Returns:
        `entries` with a new expiry and statistic.
    """
    if packing is not None:
        parts = zip(*(sequences.slices for sequences in packing), strict=True)
        each = [
            _reduce_one(reduction, query_HRD[:, rows], lse_HR[:, rows], step_R[rows],
                        Entries.of(column[:, own] for column in entries.tensors), last_KN[:, own],
                        scale, softcap, gap_rule)
            for rows, own in parts
        ]  # fmt: skip
        expiry, statistic = (torch.cat(column, dim=-1) for column in zip(*(one[3:5] for one in each), strict=True))
        return entries._replace(expiry=expiry, statistic=statistic)
    return _reduce_one(reduction, query_HRD, lse_HR, step_R, entries, last_KN, scale, softcap, gap_rule)


def _reduce_one(
    reduction: Reduction, query_HRD: Tensor, lse_HR: Tensor, step_R: Tensor, entries: Entries, last_KN: Tensor,
    scale: float, softcap: float | None, gap_rule: bool,
) -> Entries:  # fmt: skip
    """`reduce_columns` of one sequence."""
    expiry, statistic, kind = entries.expiry, entries.statistic, reduction.gathers
    num_heads, num_entries = query_HRD.shape[0], entries.position.shape[-1]
    for rows in row_tiles(query_HRD.shape[1], num_heads, num_entries, at_most=reduction.window if gap_rule else 256):
        step = step_R[rows]
        visible = (entries.position[:, None] <= step[:, None]) & (step[:, None] <= last_KN[:, None])
        scores = attention_scores(query_HRD[:, rows], entries.key, scale, softcap)
        log_weight = scores - lse_HR[:, rows].view(*scores.shape[:3], 1)
        log_weight.masked_fill_(~visible[:, None], -torch.inf)
        hit = hit_rows(reduction, log_weight, visible, step, entries.position[:, None])
        hit_step = torch.where(hit, step[:, None], 0)
        last = hit_step.amax(dim=1)
        if gap_rule:
            first = torch.where(hit, step[:, None], torch.iinfo(torch.int32).max).amin(dim=1)
            last = torch.where(first <= expiry, last, 0)
        expiry = torch.where(last > 0, torch.maximum(expiry, last + reduction.window), expiry)
        found = kind.of_rows(torch.exp(log_weight), visible, hit)
        if kind.since_hit:
            found.masked_fill_(step[:, None] <= last[:, None], 0.0)
            statistic = torch.where(last > 0, 0.0, statistic)
        statistic = kind.gathered(statistic, found, dim=1)
    return entries._replace(expiry=expiry, statistic=statistic)
