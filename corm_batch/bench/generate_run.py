"""One workload through transformers' `generate`: sdpa attention, DynamicCache, one batch of the largest size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from corm_batch.bench.ceilings import synchronize
from corm_batch.bench.engine_run import random_prompts
from corm_batch.bench.model import own_attention
from corm_batch.bench.result import Measured
from corm_batch.bench.workload import Workload
from corm_batch.engine.loader import LoadedModel

_WARM_TOKENS = 2048
_RESERVE_BYTES = 6 << 30  # of a GPU: fragmentation, and what prefill takes once for all documents
_CPU_BYTES = 1 << 30  # as much as an engine's pool has there


def measure_generate(model: LoadedModel, workload: Workload) -> Measured:
    """Answer one batch; half the size after every time the device's memory does not do.

    Raises:
        torch.OutOfMemoryError: not even one document fits.
    """
    batch = min(workload.documents, batch_that_fits(workload, _available_bytes(model.device)))
    with own_attention(model.module):
        warm = random_prompts(workload, 1, min(2, batch), min(_WARM_TOKENS, workload.prompt_tokens))
        _generate(model, warm, min(4, workload.output_tokens))
        while True:
            try:
                return _measure(model, workload, batch)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
            batch //= 2
            torch.cuda.empty_cache()


def _available_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return _CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free - _RESERVE_BYTES


def batch_that_fits(workload: Workload, available: int) -> int:
    """Documents whose caches, and the activations of whose prefill, fit `available` bytes; at least one.

    Growing by a token copies a layer's keys and values, so two layers' share comes on top. The activations of a token
    are three times the width of the MLP and six times that of the model.
    """
    shape, itemsize = workload.model, workload.torch_dtype.itemsize
    cache = workload.kv_bytes_per_token * (workload.prompt_tokens + workload.output_tokens)
    activations = workload.prompt_tokens * (3 * shape.intermediate_size + 6 * shape.hidden_size) * itemsize
    return max(1, int(available // (cache * (1 + 2 / shape.num_layers) + activations)))


class _Clock(StoppingCriteria):
    """Notes when each token is there; stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """input_ids [B, T] -> [B] of False."""
        synchronize(input_ids.device)
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _measure(model: LoadedModel, workload: Workload, batch: int) -> Measured:
    prompts = random_prompts(workload, 3, batch)
    started = time.perf_counter()
    times, cache_bytes = _generate(model, prompts, workload.output_tokens)
    steps = [after - before for before, after in pairwise(times)]
    return Measured(
        documents=batch,
        wall_s=times[-1] - started,
        prefill_tokens_per_s=batch * workload.prompt_tokens / (times[0] - started),
        decode_ms_per_step=1e3 * statistics.median(steps) if steps else None,
        documents_in_flight=batch,
        kv_bytes_per_document=cache_bytes // batch,
        kept_ratio=1.0,
    )


@torch.inference_mode()
def _generate(model: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> tuple[list[float], int]:
    """When each token was there, and the bytes of the cache at the end."""
    ids, clock, cache = torch.tensor(prompts, device=model.device), _Clock(), DynamicCache()
    model.module.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        past_key_values=cache,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]  # type: ignore[union-attr]
    return clock.times, sum(tensor.nbytes for tensor in tensors if tensor is not None)
