"""attend_chunk(): tokens of a chunk see what their sequence has stored, and each other.

All of them vote, under the gap rule, or the newest of those that score.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.looks import Look, dense_look
from corm_batch.engine.rows import Count, Part
from corm_batch.engine.work import Span
from corm_batch.kv.cache import KVCache
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.policies.base import KVPolicy


def attend_chunk(
    span: Span,
    layer: int,
    query_HRD: Tensor,
    born: Entries,
    part: Part,
    features: AttentionFeatures,
    policy: KVPolicy,
    cache: KVCache,
    looks: deque[Look],
) -> tuple[Tensor, Tensor, Entries]:
    """Attention of one layer.

    Within a chunk a policy that votes cannot hide what would have expired by then, for the votes come after the
    attention: those entries are still seen. One whose expiries are fixed at birth hides them exactly.

    Args:
        span: whose tokens these are.
        layer, query_HRD, features: of the attention.
        born: [K, R], the span's own entries.
        part: the rows it ran.
        policy: whose rules hold for them.
        cache: where the others are.
        looks: where this one is noted, see `Looks`.

    Returns:
        out [H, R, D], its log-sum-exp [H, R], and all entries [K, N + R] with what was found of them.
    """
    count = Count(part.step_R, span.stop, span.num_tokens)
    reduction, entries, packing = policy.needs.reduction, born, part.packing
    if span.start:
        packing = cache.packing_before(span.sequence.slot, layer, len(part.step_R))
        entries = cache.read_before(span.sequence.slot, layer, entries)
    last = torch.full_like(entries.expiry, NEVER) if votes(policy) else entries.expiry
    looks.append(look := dense_look(cache.ops, part.step_R, entries, last))
    out, lse = look(query_HRD, features)
    if reduction is not None:
        rows = part.packing
        if not reduction.accumulate:
            rows = part.newest(reduction.window)
            entries = entries._replace(statistic=torch.zeros_like(entries.statistic))
        voted = cache.ops.reduce_columns(
            reduction, query_HRD, lse, part.count_R, *count.entries(entries, last),
            features.scale, features.softcap, gap_rule=True, packing=(rows, packing),
        )  # fmt: skip
        entries = as_voted(policy, entries, voted)
    return out, lse, entries


def votes(policy: KVPolicy) -> bool:
    """Whether expiries are what votes make of them, and attention sees what would have expired by then."""
    return policy.needs.reduction is not None and policy.needs.reduction.threshold is not None


def as_voted(policy: KVPolicy, entries: Entries, voted: Entries) -> Entries:
    """Entries with what was gathered of them, and where expiries are votes', with these; positions as they were."""
    return voted._replace(position=entries.position, expiry=voted.expiry if votes(policy) else entries.expiry)
