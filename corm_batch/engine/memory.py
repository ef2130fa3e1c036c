"""What memory there is, and what a document's cache cost: figures read off the pages really held."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.request import MemoryStats
from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache
from corm_batch.ops.reduction import Reduction

_CPU_POOL_BYTES = 1 << 30
"""The pool of a CPU engine that was given no size."""


def pool_bytes(config: EngineConfig, device: torch.device) -> int | None:
    """Bytes for the page pool as far as they are known without a model; None where they have to be measured."""
    if config.kv_memory is not None:
        return int(config.kv_memory)
    return None if device.type == "cuda" else _CPU_POOL_BYTES


def memory_stats(
    sequence: Sequence, cache: KVCache, model: LoadedModel, reduction: Reduction | None, config: EngineConfig
) -> MemoryStats:
    """A sequence's figures as they stand; those of its pages only while it has any."""
    now, num_cached, num_kv_heads = time.monotonic(), sequence.num_cached, model.shape.num_kv_heads
    started, first = sequence.started_at, sequence.first_token_at
    stats = MemoryStats(
        prompt_tokens=sequence.num_prompt_tokens,
        output_tokens=len(sequence.output),
        preemptions=sequence.preemptions,
        queue_s=(started or now) - sequence.arrived_at,
        prefill_s=0.0 if started is None else (first or now) - started,
        decode_s=0.0 if first is None else now - first,
        prefill_mode=config.prefill,
    )
    if sequence.slot < 0:
        return stats
    entry_bytes, page_bytes = 2 * model.shape.head_dim * model.dtype.itemsize, cache.pool.page_bytes
    full = sum(min(num_cached, window or num_cached) * num_kv_heads for window in model.windows)
    kept = cache.table.lengths[sequence.slot].sum(axis=1)
    at_once = config.chunk_size if config.prefill == "streaming" else sequence.num_prefilled
    peak_pages = max(sequence.peak_pages, int(cache.peak_pages[sequence.slot]))
    return replace(
        stats,
        kv_bytes_full=full * entry_bytes,
        kv_bytes_after_prefill=sequence.pages_after_prefill * page_bytes,
        kv_bytes_peak=peak_pages * page_bytes,
        kv_bytes_final=cache.pages_held(sequence.slot) * page_bytes,
        kv_bytes_transient=min(at_once, sequence.num_prefilled) * num_kv_heads * entry_bytes,
        kept_ratio=int(kept.sum()) / max(1, full),
        kept_per_layer=tuple(int(count) for count in kept),
        evicted_entries=num_cached * cache.num_lists - int(kept.sum()),
        evicted_attention_mass=_evicted_mass(sequence, reduction, config),
    )


def kept_positions(cache: KVCache, slot: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """0-based token indices a sequence holds, [layer][kv head]."""
    layers = (cache.read(slot, layer).position.cpu() - 1 for layer in range(cache.table.lengths.shape[1]))
    return tuple(
        tuple(tuple(row[:count].tolist()) for row, count in zip(position, counts, strict=True))
        for position, counts in zip(layers, cache.table.lengths[slot], strict=True)
    )


def _evicted_mass(sequence: Sequence, reduction: Reduction | None, config: EngineConfig) -> float:
    """Share of all the attention that was voted with which lay on entries evicted since; mean over layers."""
    if reduction is None:
        return 0.0
    prompt = sequence.num_prefilled
    votes = prompt if config.prefill == "streaming" else min(prompt, reduction.window)
    return float(sequence.evicted_mass.mean()) / max(1, votes + sequence.num_cached - prompt)
