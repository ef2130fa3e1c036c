"""on_gpu(): what a job would take on cards of one kind, by the sizes of its prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corm_batch.bench.gpus import GpuEstimate, estimate, tokens_behind
from corm_batch.budgets.base import Place
from corm_batch.engine.checkpoint import load_config
from corm_batch.engine.fp8_format import stored_fp8
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.vocabulary import served
from corm_batch.pipeline.prompts import Asked, PromptSizes, Size
from corm_batch.policies.base import KVPolicy
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer

KEPT_RATIOS = (1.0, 0.5, 0.25, 0.1)
"""Where no budget says how much is kept."""


def on_gpu(
    spec: JobSpec,
    name: str,
    path: str,
    tokenizer: PromptTokenizer | None,
    asked: Sequence[Asked],
    sizes: PromptSizes,
    prompts: int,
) -> GpuEstimate:
    """The job, which names its form of storage, on cards of one kind: at the kept ratio that the policy's bound leaves,
    or at several."""
    alone = [Size(max(0, tokens), 0, max(0, tokens)) for tokens in (sizes.held - spec.task.max_new_tokens).tolist()]
    single = [size for one in asked for size in one.sizes] or alone
    texts = [size.compressed for size in single if size.compressed]
    config = load_config(path, spec.model.revision, spec.model.trust_remote_code)
    engine, shape, policy = spec.engine, ModelShape.from_config(config).storing(spec.engine.sharing), spec.policy
    if tokenizer is not None:
        policy = served(policy, shape, lambda: tokenizer.wrapped)
    mean, context = max(1.0, float(np.mean(texts))) if texts else 1.0, shape.context(engine.max_model_len)
    pins = [count for one in asked for count in one.pins] or [spec.policy.num_first]
    bound = _most_kept(spec.policy, shape, round(mean) + spec.task.max_new_tokens, round(float(np.mean(pins))))
    return estimate(
        name, config, spec.model.dtype, [size.read for size in single], prompts, spec.task.max_new_tokens,
        KEPT_RATIOS if bound is None else (bound,),
        prefill=engine.prefill, chunk_size=engine.chunk_size, max_sequences=engine.max_sequences,
        memory_fraction=engine.memory_fraction, kv_memory=None if engine.kv_memory is None else int(engine.kv_memory),
        gpus_per_replica=engine.tensor_parallel, replicas=spec.cluster.min_replicas,
        verify_share=spec.verify.share if spec.verify else 0.0,
        weights="fp8" if stored_fp8(config) else spec.model.weights, storage=engine.form,
        behind=[tokens_behind(policy, size.compressed, context) if size.compressed else [] for size in single],
        shared=[size.shared for size in single], sharing=engine.sharing,
    )  # fmt: skip


def _most_kept(policy: KVPolicy, shape: ModelShape, num_tokens: int, num_pins: int) -> float | None:
    """Share of so many tokens, so many of them pinned, that the policy's budget leaves; None where a layer has none."""
    shares = []
    for layer in range(shape.num_layers):
        budget = policy.budget_at(layer)
        if budget is None:
            return None
        place = Place(layer, shape.num_layers, shape.num_kv_heads, policy.num_pinned + num_pins)
        shares.append(float(np.minimum(budget.most(place, num_tokens), num_tokens).mean()) / num_tokens)
    return float(np.mean(shares))
