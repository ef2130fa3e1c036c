"""GPUs by name: what fits on one at once and how long documents would take there, without having one.

The time is the physical limit of `bench/limit.py` at rates that the card's data sheet promises, times what of them was
measured (`infra/measure/results/h200-*.json`, medians over all workloads): shares of the sheet that copies, products
and causal attention reach on an H200, and the share of the limit that this engine then reaches. Other cards are taken
to reach the same shares. Loading, the wait for the source and answers shorter than they may be are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from corm_batch.bench.ceilings import Ceilings
from corm_batch.bench.limit import attended_pairs, prefill_limit_s, step_bytes, step_limit_s
from corm_batch.bench.workload import LlamaShape, Workload
from corm_batch.engine.config import WeightForm
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import DocumentError, SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.storage.base import Storage
from corm_batch.storage.model import Model

_MODEL = Model()
COPY_SHARE, MATMUL_SHARE, ATTENTION_SHARE = 0.91, 0.69, 0.60
LIMIT_SHARES = {"exact": 0.88, "streaming": 0.72}
FORWARD_BYTES = 4 * 2**30
"""Assumed to be taken by the largest forward pass and by what torch and CUDA hold for themselves."""


@dataclass(frozen=True)
class Gpu:
    """One card by its data sheet: memory, bytes a second, and dense operations a second, sparsity not counted."""

    gigabytes: float
    gb_per_s: float
    bfloat16_tflop_per_s: float
    float32_tflop_per_s: float
    fp8_tflop_per_s: float | None


GPUS = {
    "a10": Gpu(24, 600, 125, 31.2, None),
    "a100": Gpu(80, 2039, 312, 19.5, None),
    "a100-40gb": Gpu(40, 1555, 312, 19.5, None),
    "h100": Gpu(80, 3350, 989.5, 67, 1979),
    "h100-pcie": Gpu(80, 2000, 756, 51, 1513),
    "h200": Gpu(141, 4800, 989.5, 67, 1979),
    "l4": Gpu(24, 300, 121, 30.3, 242),
    "l40s": Gpu(48, 864, 362, 91.6, 733),
    "rtx4090": Gpu(24, 1008, 165.2, 82.6, 330.3),
}
"""SXM cards where there are several."""


@dataclass(frozen=True)
class GpuRow:
    """What would be at one kept ratio: documents of mean size at once in a replica, and hours of the whole job.

    None where not one document fits.
    """

    kept_ratio: float
    documents_at_once: int
    hours: float | None


@dataclass(frozen=True)
class GpuEstimate:
    """A job on one kind of card.

    Attributes:
        name: of the card.
        weight_bytes: of the model, over all cards of a replica.
        pool_bytes: left for cached entries, likewise; negative when the weights do not fit.
        limit_share: what of the physical limit is taken to be reached.
        rows: by kept ratio.
        verify_hours: of these hours what verification takes, the same in every row.
        behind_hours: of them what the policy has the model read behind prompts, likewise.
        rerun_s: seconds that answering one prompt again without eviction takes beside them; None where it does not fit.
    """

    name: str
    weight_bytes: int
    pool_bytes: int
    limit_share: float
    rows: tuple[GpuRow, ...]
    verify_hours: float
    behind_hours: float
    rerun_s: float | None


def find_gpu(name: str, weights: WeightForm = "stored", storage: Storage = _MODEL) -> Gpu:
    """A card by its name, whatever its case, on which weights and entries in these forms run.

    Raises:
        SpecError: none of that name, the message lists them; or it has no 8-bit products, or numbers.
    """
    if name.lower() not in GPUS:
        raise SpecError(f"--gpu {name}: no figures of such a card; known: {', '.join(GPUS)}")
    gpu = GPUS[name.lower()]
    if weights == "fp8" and gpu.fp8_tflop_per_s is None:
        raise SpecError(f"--gpu {name}: the card has no 8-bit products, which weights in fp8 need")
    if storage.needs_fp8 and gpu.fp8_tflop_per_s is None:
        raise SpecError(f"--gpu {name}: the card has no 8-bit numbers, which engine.storage: {storage.name} needs")
    return gpu


def dense_shape(config: Any) -> LlamaShape:
    """The counts of a transformers text config, read as those of a dense model with gated MLPs."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    return LlamaShape(
        num_layers=config.num_hidden_layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * hidden,
        vocab_size=config.vocab_size,
        rope_theta=1e4,
    )


def tokens_behind(policy: KVPolicy, num_tokens: int, context: int) -> list[int]:
    """Tokens that a policy has the model read behind a prompt of so many, pass by pass, each of which sees the prompt;
    with the words that ask for it where the policy has been told them, and none where there is no room."""
    if not policy.needs.extra_passes:
        return []
    try:
        passes = policy.extra_passes(np.zeros(num_tokens, np.int64), context - num_tokens)
    except DocumentError:
        return []
    return [len(one.token_ids) for one in passes]


def estimate(
    name: str,
    config: Any,
    dtype: str,
    prompts: Sequence[int],
    num_prompts: float,
    output_tokens: int,
    kept_ratios: Sequence[float],
    *,
    prefill: Literal["exact", "streaming"],
    chunk_size: int,
    max_sequences: int,
    memory_fraction: float,
    kv_memory: int | None,
    gpus_per_replica: int,
    replicas: int,
    verify_share: float,
    weights: WeightForm = "stored",
    storage: Storage = _MODEL,
    behind: Sequence[Sequence[int]] = (),
    shared: Sequence[int] = (),
    sharing: Mapping[int, int] | None = None,
) -> GpuEstimate:
    """A job on cards of one kind; raises SpecError, see `find_gpu`.

    Args:
        name, config, dtype: the card, as in `GPUS`; the text config as transformers has it; of what numbers it is made.
        prompts, num_prompts: tokens of single prompts, as many as were looked at, and how many there are in all.
        output_tokens, kept_ratios: tokens of every answer; entries kept over those of a whole cache, a row each.
        prefill, chunk_size, max_sequences, memory_fraction, kv_memory: as in the engine's section.
        gpus_per_replica, replicas: cards that share a replica, and replicas side by side.
        verify_share: of the prompts, each of which is read once more with its answer, in an exact pass.
        weights, storage: the forms of weights and entries; 8-bit products are taken to reach as much of the sheet.
        behind: of each of `prompts`, see `tokens_behind`; what the policy computes of it is not counted.
        shared: of each of `prompts`, tokens of a reading that it is asked over and does not read; none where empty.
        sharing: layers that hold nothing, as in the engine's section.
    """
    gpu, wide, shape = find_gpu(name, weights, storage), dtype == "float32", dense_shape(config)
    seen = list(map(sum, zip(prompts, shared or [0] * len(prompts), strict=True)))
    workload, whole = (_workload(name, shape, wide, sizes, output_tokens) for sizes in (prompts, seen))
    ceilings, weight_bytes = _ceilings(gpu, wide, gpus_per_replica), _weight_bytes(config, workload, weights)
    free = int((gpu.gigabytes * 1e9 - FORWARD_BYTES) * gpus_per_replica) - weight_bytes
    pool = kv_memory if kv_memory is not None and free > 0 else int(memory_fraction * free)
    full = _full_bytes(ModelShape.from_config(config).storing(sharing or {}), workload, storage)
    share, chunk = LIMIT_SHARES[prefill], None if prefill == "exact" else chunk_size

    def at_once(ratio: float) -> int:
        return min(max_sequences, int(max(0, pool) / (full * ratio)))

    def seconds(ratio: float) -> float:
        held, pairs = max(1, at_once(ratio)), _mean_pairs(prompts, chunk, ratio, seen)
        steps_s = (output_tokens - 1) * step_limit_s(whole, ceilings, held, ratio, weights, storage)
        return (prefill_limit_s(workload, ceilings, pairs, weights) + steps_s / held) / share

    verify_s, hours = verify_share * _verify_s(whole, ceilings, seen, weights), num_prompts / replicas / 3600
    behind_s = _behind_s(workload, ceilings, prompts, behind, weights) / share
    each_s = {one: seconds(one) + verify_s + behind_s for one in kept_ratios}
    rows = [GpuRow(one, at_once(one), hours * each_s[one] if at_once(one) else None) for one in kept_ratios]
    extra = hours * verify_s, hours * behind_s, seconds(1.0) / replicas if at_once(1.0) else None
    return GpuEstimate(name.lower(), weight_bytes, pool, share, tuple(rows), *extra)


def _full_bytes(shape: ModelShape, workload: Workload, storage: Storage) -> int:
    """Pages of one document of which everything is kept, at its end."""
    per_token = shape.page_bytes_per_token(storage, workload.torch_dtype)
    return (workload.prompt_tokens + workload.output_tokens) * per_token


def _workload(name: str, shape: LlamaShape, wide: bool, sizes: Sequence[int], output_tokens: int) -> Workload:
    """One document of the mean of these sizes."""
    mean = max(1, round(fmean(sizes))) if sizes else 1
    return Workload(
        name=name, model=shape, dtype="float32" if wide else "bfloat16", prompt_tokens=mean,
        output_tokens=output_tokens, documents=1, max_kept=1,
    )  # fmt: skip


def _weight_bytes(config: Any, workload: Workload, weights: WeightForm) -> int:
    """All of a model's, the embedding table as well where the output head is not the same."""
    shape, itemsize = workload.model, workload.torch_dtype.itemsize
    embedding = 0 if getattr(config, "tie_word_embeddings", False) else shape.vocab_size * shape.hidden_size
    return step_bytes(shape, itemsize, weights) + embedding * itemsize


def _ceilings(gpu: Gpu, wide: bool, cards: int) -> Ceilings:
    """What so many cards reach together."""
    flops = (gpu.float32_tflop_per_s if wide else gpu.bfloat16_tflop_per_s) * cards
    rate, attention = COPY_SHARE * gpu.gb_per_s * cards, ATTENTION_SHARE * flops
    in_8_bits = None if gpu.fp8_tflop_per_s is None else MATMUL_SHARE * gpu.fp8_tflop_per_s * cards
    return Ceilings(
        copy_gb_per_s=rate, read_gb_per_s=rate, matmul_tflop_per_s=MATMUL_SHARE * flops, causal_tflop_per_s=attention,
        sdpa_tflop_per_s=attention, fp8_tflop_per_s=in_8_bits,
    )  # fmt: skip


def _mean_pairs(prompts: Sequence[int], chunk_size: int | None, ratio: float, seen: Sequence[int]) -> float:
    """Of one prompt, read whole or in chunks that see a share of what came before them (see `attended_pairs`), what is
    shared of all that is seen included."""
    pairs = [
        attended_pairs(tokens, chunk_size or tokens, max(1, round(ratio * tokens))) + ratio * tokens * (whole - tokens)
        for tokens, whole in zip(prompts, seen, strict=True)
    ]
    return fmean(pairs) if pairs else 0.0


def _verify_s(workload: Workload, ceilings: Ceilings, prompts: Sequence[int], weights: WeightForm) -> float:
    """Seconds of an exact pass over one prompt and its answer, whose rows alone the output head reads."""
    shape, answer = workload.model, workload.output_tokens
    whole = workload.model_copy(update={"prompt_tokens": workload.prompt_tokens + answer})
    passes = [tokens + answer for tokens in prompts]
    pairs = _mean_pairs(passes, None, 1.0, passes)
    head_s = 2 * shape.vocab_size * shape.hidden_size * answer / ceilings.matmul_per_s
    return (prefill_limit_s(whole, ceilings, pairs, weights) + head_s) / LIMIT_SHARES["exact"]


def _behind_s(
    workload: Workload,
    ceilings: Ceilings,
    prompts: Sequence[int],
    behind: Sequence[Sequence[int]],
    weights: WeightForm,
) -> float:
    """Seconds, at the limit, of what is read behind one prompt, pass by pass, each of which sees itself and it."""
    if not any(behind):
        return 0.0
    tokens = fmean(sum(passes) for passes in behind)
    seen = [sum(one * prompt + one**2 / 2 for one in passes) for prompt, passes in zip(prompts, behind, strict=True)]
    read = workload.model_copy(update={"prompt_tokens": round(tokens)})
    return prefill_limit_s(read, ceilings, fmean(seen), weights)
