"""One workload through this package's engine, under one cache policy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from corm_batch.bench.result import Measured, Prefill
from corm_batch.bench.workload import Workload
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Completion, Request, SamplingParams
from corm_batch.policies.base import KVPolicy
from corm_batch.propagation.base import Propagation

_WARM_TOKENS = 2048
_PREFILL_TOKENS = 1 << 16  # about as many for the measurement of prefill alone
_FULL_BATCH = 0.9


@dataclass(frozen=True)
class DecodeSample:
    """One call of `Engine.step` that decoded: seconds, steps it took, tokens that came of them."""

    seconds: float
    steps: int
    tokens: int


def random_prompts(workload: Workload, seed: int, documents: int, num_tokens: int | None = None) -> list[list[int]]:
    """Prompts that share nothing: [documents][num_tokens, by default the workload's] token ids."""
    size = documents, num_tokens or workload.prompt_tokens
    ids: list[list[int]] = np.random.default_rng(seed).integers(workload.model.vocab_size, size=size).tolist()
    return ids


def engine_config(
    workload: Workload, prefill: Prefill, storage: str, propagation: Propagation | None = None
) -> EngineConfig:
    """Settings under which nothing but memory bounds the documents in flight."""
    length = workload.prompt_tokens + workload.output_tokens
    fields = {"prefill": prefill, "storage": storage, "max_model_len": length, "propagation": propagation}
    return EngineConfig.parse({**fields, "max_sequences": workload.documents})


def measure_engine(
    model: LoadedModel,
    workload: Workload,
    policy: KVPolicy,
    prefill: Prefill,
    storage: str = "model",
    propagation: Propagation | None = None,
) -> Measured:
    """Warm up, prefill a few documents, answer all of them.

    Raises:
        DocumentError: one cannot be answered, such as one whose cache does not fit.
        torch.OutOfMemoryError: the device has less memory than was planned for.
    """
    engine = Engine(model, policy, engine_config(workload, prefill, storage, propagation))
    warm = random_prompts(workload, 1, 2, min(_WARM_TOKENS, workload.prompt_tokens))
    _answer(engine, warm, min(8, workload.output_tokens))
    few = min(workload.documents, max(1, _PREFILL_TOKENS // workload.prompt_tokens))
    started = time.perf_counter()
    _answer(engine, random_prompts(workload, 2, few), 1)
    prefill_s = time.perf_counter() - started

    prompts = random_prompts(workload, 3, workload.documents)
    started = time.perf_counter()
    completions, samples = _answer(engine, prompts, workload.output_tokens)
    wall_s = time.perf_counter() - started
    return Measured(
        documents=len(completions),
        wall_s=wall_s,
        prefill_tokens_per_s=few * workload.prompt_tokens / prefill_s,
        decode_ms_per_step=full_batch_ms(samples),
        documents_in_flight=engine.stats.most_in_flight,
        kv_bytes_per_document=round(statistics.fmean(done.memory.kv_bytes_peak for done in completions)),
        kept_ratio=statistics.fmean(done.memory.kept_ratio for done in completions),
    )


def full_batch_ms(samples: Sequence[DecodeSample]) -> float | None:
    """Median milliseconds of a step among the calls that decoded (nearly) as many documents as ever; None for none."""
    if not samples:
        return None
    batch = max(sample.tokens / sample.steps for sample in samples)
    full = [sample for sample in samples if sample.tokens / sample.steps >= _FULL_BATCH * batch]
    return 1e3 * statistics.median(sample.seconds / sample.steps for sample in full)


def _answer(
    engine: Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> tuple[list[Completion], list[DecodeSample]]:
    """Every prompt's greedy answer of exactly `max_new_tokens`, and the engine's calls that decoded."""
    sampling = SamplingParams(max_new_tokens=max_new_tokens, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(Request(str(number), prompt, sampling))
    completions: list[Completion] = []
    samples = []
    before = replace(engine.stats)
    while engine.has_work:
        for done in engine.step():
            if done.error is not None:
                raise done.error
            completions.append(done)
        now = replace(engine.stats)
        if now.decode_steps > before.decode_steps:
            steps, tokens = now.decode_steps - before.decode_steps, now.output_tokens - before.output_tokens
            samples.append(DecodeSample(now.decode_s - before.decode_s, steps, tokens))
        before = now
    return completions, samples
