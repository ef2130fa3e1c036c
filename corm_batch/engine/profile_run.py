"""measure_pool_bytes(): what a GPU has left for pages beside a model and its largest forward pass, by running some."""

from __future__ import annotations

import gc
from collections import abc

import torch

from corm_batch.engine.batch import PrefillBatch
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.rotary import rotary_for
from corm_batch.engine.sequence import Sequence
from corm_batch.engine.work import Span
from corm_batch.kv.cache import KVCache
from corm_batch.kv.layout import Layout
from corm_batch.ops.basis import Basis
from corm_batch.policies.base import KVPolicy

DRIVER_BYTES = 1 << 29
"""What the driver takes later, beside the allocator: kernels, which are loaded when first used, and captured steps."""
_PROFILED_TOKENS = (16_384, 32_768)
"""Prompt lengths whose forward pass is measured; what a longer one takes is their straight line. Beyond the first, an
MLP's rows run in slices and only what a token leaves behind grows."""


def measure_pool_bytes(
    config: EngineConfig,
    model: LoadedModel,
    policies: abc.Sequence[KVPolicy],
    layout: Layout,
    bases: abc.Sequence[Basis] | None = None,
) -> int:
    """Bytes of the device that neither the model nor the largest forward pass needs, times the configured share."""
    gc.collect()  # an engine that is gone may lie in a cycle until then, and its pages would count as used
    torch.cuda.empty_cache()
    transient = _largest_pass(config, model, policies, layout, bases)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(0, int((free - transient - DRIVER_BYTES) * config.memory_fraction))


def _largest_pass(
    config: EngineConfig,
    model: LoadedModel,
    policies: abc.Sequence[KVPolicy],
    layout: Layout,
    bases: abc.Sequence[Basis] | None,
) -> int:
    """Bytes that the largest forward pass takes beside the pool: over a prompt that is kept, or over one that is scored
    where room for that is asked for and prompts that are kept come in chunks."""
    context = model.shape.context(config.max_model_len)
    exact = config.prefill == "exact"

    def kept(num_tokens: int) -> int:
        request = Request("", [0] * num_tokens, SamplingParams(max_new_tokens=1), instruction=(range(1),))
        return _peak_bytes(config, model, policies, layout, bases, request)

    def scored(num_tokens: int) -> int:
        request = Request("", [0] * num_tokens, answer_ids=[0], uncompressed=True)
        return _peak_bytes(config, model, policies, layout, bases, request)

    most = _extrapolated(max(config.step_token_budget, context if exact else 0), kept)
    return max(most, _extrapolated(context, scored)) if config.room_for_scoring and not exact else most


def _extrapolated(most: int, peak_bytes: abc.Callable[[int], int]) -> int:
    """Bytes that a pass over `most` tokens takes, measured on shorter ones."""
    lengths = sorted({min(length, most) for length in _PROFILED_TOKENS})
    peaks = [peak_bytes(length) for length in lengths]
    if len(lengths) == 1:
        return peaks[0]
    return peaks[1] + max(0, peaks[1] - peaks[0]) * (most - lengths[1]) // (lengths[1] - lengths[0])


@torch.inference_mode()
def _peak_bytes(
    config: EngineConfig,
    model: LoadedModel,
    policies: abc.Sequence[KVPolicy],
    layout: Layout,
    bases: abc.Sequence[Basis] | None,
    request: Request,
) -> int:
    """Device memory that a request takes while it is prefilled whole, its pages aside."""
    shape, device = model.shard, model.device
    cache = KVCache(
        1, model.layers(config.sharing), shape.num_kv_heads, 1, layout, config.form, device, bases=bases,
    )  # fmt: skip
    sequence = Sequence(request, 0, len(policies), device)
    if sequence.stores:
        sequence.slot = cache.open()
    evictions = Evictions(cache, policies, policies, model.ranks)
    spans = [Span(sequence, 0, sequence.num_to_prefill)]
    batch = PrefillBatch(spans, evictions, rotary_for(model, policies))
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    model.forward(batch)
    batch.discard()
    return torch.cuda.max_memory_allocated(device) - before
