"""What memory there is, and what a document's cache cost: figures read off the pages really held."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import fmean

import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.ranks import Ranks
from corm_batch.engine.sequence import Sequence
from corm_batch.errors import CapacityError, DocumentError
from corm_batch.kv.cache import KVCache
from corm_batch.ops.pages import kv_bytes
from corm_batch.ops.reduction import Reduction
from corm_batch.policies.needs import Needs


def memory_stats(
    sequence: Sequence, cache: KVCache, model: LoadedModel, needs: Needs, config: EngineConfig
) -> MemoryStats:
    """A sequence's figures as they stand, over all ranks; those of its pages only while it has any. What its reading
    has cost is no part of it: a document costs what its reading and all that is asked over it cost together."""
    if sequence.request.uncompressed:
        needs = Needs()
    now, num_cached, num_kv_heads = time.monotonic(), sequence.num_cached, model.shape.num_kv_heads
    stats = MemoryStats(
        prompt_tokens=sequence.num_prompt_tokens - sequence.num_shared,
        output_tokens=len(sequence.output),
        preemptions=sequence.preemptions,
        queue_s=(sequence.started_at or now) - sequence.ready_at,
        prefill_s=sequence.prefill_s,
        decode_s=sequence.decode_s,
        elapsed_s=now - sequence.arrived_at,
        prefill_mode=config.prefill,
    )
    if sequence.slot < 0:
        return stats
    entry_bytes, page_bytes = kv_bytes(model.shape.head_dim, model.dtype), cache.pool.page_bytes
    if not sequence.stores:
        transient = sequence.num_prefilled * num_kv_heads * entry_bytes
        return replace(stats, kv_bytes_transient=transient, prefill_mode="exact")
    shared = sequence.num_shared
    by_layer = [min(num_cached, window or num_cached) - min(shared, window or shared) for window in model.windows]
    full, num_read = sum(by_layer) * num_kv_heads, sequence.num_prefilled - shared
    at_once = config.chunk_size if config.prefill == "streaming" else num_read
    at_once = max(min(at_once, num_read), sequence.longest_extra_pass)
    after, peak, final, *kept = _totals(
        model.ranks,
        [
            sequence.pages_after_prefill,
            max(sequence.peak_pages, int(cache.peak_pages[sequence.slot])),
            cache.pages_held(sequence.slot),
            *(cache.table.lengths[sequence.slot] - cache.table.shared[sequence.slot]).sum(axis=1).tolist(),
        ],
    )
    share = fmean(model.ranks.gather(_evicted_share(sequence, needs.reduction)))
    groups, held = cache.layers.groups, [num_cached - shared] * len(by_layer)
    if groups is not None:
        near = groups.num_proximal(shared, num_cached)
        by_layer, held = (
            [near if n in groups.members else one for n, one in enumerate(each)] for each in (by_layer, held)
        )
    stored = sum(cache.layers.own(by_layer)) * num_kv_heads
    known = needs.reduction.gathers.is_attention if needs.reduction else sum(kept) >= stored
    return replace(
        stats,
        kv_bytes_full=full * entry_bytes,
        kv_bytes_after_prefill=after * page_bytes,
        kv_bytes_peak=peak * page_bytes,
        kv_bytes_final=final * page_bytes,
        kv_bytes_transient=at_once * cache.layers.most_at_once * num_kv_heads * entry_bytes,
        kept_ratio=sum(kept) / max(1, full),
        kept_per_layer=tuple(cache.layers.spread(kept, 0)),
        evicted_entries=max(0, sum(cache.layers.own(held)) * num_kv_heads - sum(kept)),
        evicted_attention_mass=share if known else None,
    )


def kept_positions(cache: KVCache, slot: int, ranks: Ranks) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """0-based token indices a sequence holds, [layer][kv head], none where a layer borrows another's entries; a rank's
    heads follow those of the rank before it."""
    layers = (cache.read(slot, layer).position.cpu() - 1 for layer in range(cache.table.lengths.shape[1]))
    own = [
        tuple(tuple(row[:count].tolist()) for row, count in zip(position, counts, strict=True))
        for position, counts in zip(layers, cache.table.lengths[slot], strict=True)
    ]
    rows = [tuple(head for heads in layer for head in heads) for layer in zip(*ranks.gather(own), strict=True)]
    return tuple(cache.layers.spread(rows, ((),) * len(rows[0])))


def pool_too_small(sequence: Sequence, bytes_needed: int, bytes_available: int) -> CapacityError:
    """What to tell of a sequence that had the whole pool."""
    message = (
        f"{sequence.num_prompt_tokens} prompt tokens need at least {bytes_needed} bytes of cache, the pool has "
        f"{bytes_available} (engine.kv_memory or engine.memory_fraction sets it)"
    )
    return CapacityError(message, bytes_needed=bytes_needed, bytes_available=bytes_available)


def device_too_small(sequence: Sequence, error: Exception) -> DocumentError:
    """What to tell of a sequence that had the whole device."""
    what, way_out = f"{sequence.num_prompt_tokens} prompt tokens", "; streaming prefill needs less"
    if not sequence.stores:
        what, way_out = f"{sequence.num_to_prefill} tokens of a prompt and an answer, scored in one pass,", ""
    return DocumentError(
        f"{what} need more memory than the device has beside the model and the page pool "
        f"(engine.memory_fraction sets it{way_out}): {error}"
    )


def _totals(ranks: Ranks, counts: list[int]) -> list[int]:
    """Each count, summed over ranks."""
    return [sum(column) for column in zip(*ranks.gather(counts), strict=True)]


def _evicted_share(sequence: Sequence, reduction: Reduction | None) -> float:
    """Share of all the attention that was voted with which lay on entries evicted since; mean over layers. Where
    another statistic than the sum was taken it means nothing."""
    if reduction is None:
        return 0.0
    votes = sequence.num_votes + (sequence.num_cached - sequence.num_prefilled)
    return float((sequence.lost_statistic.cpu() / torch.from_numpy(votes).clamp(min=1)).mean())
