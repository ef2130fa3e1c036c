"""attend_behind(): tokens behind a prompt see all of it; what the policy finds stays with the prompt's entries."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.entries import new_entries
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.looks import Look, dense_look
from corm_batch.engine.pins import never_expiring
from corm_batch.engine.work import Span
from corm_batch.ops.rotary import Rotary
from corm_batch.policies.reading import Reading


def attend_behind(
    span: Span,
    layer: int,
    query_HRD: Tensor,
    key_KRD: Tensor,
    value_KRD: Tensor,
    step_R: Tensor,
    token_ids_R: Tensor,
    features: AttentionFeatures,
    evictions: Evictions,
    looks: deque[Look],
    rotary: Rotary | None = None,
) -> Tensor:
    """Attention of an extra pass; its own entries end with the layer.

    Args:
        span: the pass, of a sequence whose whole prompt is in the cache.
        layer, query_HRD, key_KRD, value_KRD, step_R, token_ids_R, features: of its tokens.
        evictions: the policies and the cache.
        looks: where this one is noted, see `Looks`.
        rotary: for policies that undo rotary positions.

    Returns:
        [H, R, D].
    """
    sequence, cache, policy = span.sequence, evictions.cache, evictions.policies[layer]
    whole = evictions.of(sequence).policies[layer]
    born = new_entries(cache, policy, layer, key_KRD, value_KRD, step_R, expiring=whole)
    entries = cache.read_before(sequence.slot, layer, born)
    looks.append(look := dense_look(cache.ops, step_R, entries, entries.expiry))
    out, lse = look(query_HRD, features)
    if policy.needs.extra_passes and span.extra is not None:
        reading = Reading(
            query_HRD, lse, span.stop, sequence.num_prompt_tokens, token_ids_R, features.scale, features.softcap,
            rotary, sequence.notes.setdefault(layer, {}), features.sink_H, span.extra.about,
        )  # fmt: skip
        observed = policy.observe(layer, entries, reading)
        cache.revise(sequence.slot, layer, never_expiring(policy, [sequence], observed))
    return out
