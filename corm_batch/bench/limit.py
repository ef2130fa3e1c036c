"""The physical limit: seconds a document would take if every byte and every operation went at the measured ceilings.

The count is that of a roofline model (Williams, Waterman, Patterson, CACM 2009), document by document. Choosing what to
keep, sampling, norms and launches cost nothing in it, so it bounds every engine from above:

    prefill  = 2 * weights * prompt / matmul rate  +  4 * layers * heads * head_dim * pairs / attention rate
    step     = max(weight bytes / bandwidth, 2 * weights * held / matmul rate)  +  held * cache bytes / bandwidth
    document = prefill  +  (output - 1) * step / held

Of 8-bit weights the layers' products count at their own rate, and a byte each. The output head is never among them.
pairs: (query, key) pairs that attend; held: documents in flight; cache bytes: keys and values one document has stored,
in the form in which they are.
"""

from __future__ import annotations

from corm_batch.bench.ceilings import Ceilings
from corm_batch.bench.workload import LlamaShape, Workload
from corm_batch.engine.config import WeightForm
from corm_batch.propagation.base import Propagation
from corm_batch.storage.base import Storage
from corm_batch.storage.model import Model

_MODEL = Model()


def attended_pairs(prompt_tokens: int, chunk_size: int, max_kept: int) -> float:
    """(query, key) pairs of a prompt read in chunks, each of which sees itself and at most `max_kept` entries.

    A chunk of the whole prompt is exact prefill: prompt² / 2.
    """
    pairs = 0.0
    for start in range(0, prompt_tokens, chunk_size):
        chunk = min(chunk_size, prompt_tokens - start)
        pairs += chunk * min(start, max_kept) + chunk**2 / 2
    return pairs


def propagated(
    propagation: Propagation | None, num_layers: int, prompt_tokens: int, chunk_size: int, max_kept: int
) -> tuple[float, float]:
    """What propagation leaves of a prompt's work: the share of its tokens that a layer runs, and the pairs that attend
    there as `attended_pairs` counts them, both the mean over layers. As few go on as ever may: a bound from above."""
    pairs = attended_pairs(prompt_tokens, chunk_size, max_kept)
    if propagation is None:
        return 1.0, pairs
    whole = (propagation.deciding_layer([None] * num_layers) + 1) / num_layers
    chunk = min(chunk_size, prompt_tokens)
    go_on = propagation.fewest(chunk)
    tokens = -(-prompt_tokens * go_on // chunk)
    later = attended_pairs(tokens, go_on, max_kept)
    return whole + (1 - whole) * tokens / prompt_tokens, whole * pairs + (1 - whole) * later


def prefill_limit_s(
    workload: Workload, ceilings: Ceilings, pairs: float, weights: WeightForm = "stored", run_share: float = 1.0
) -> float:
    """Seconds to prefill one document; `run_share`: of its tokens, those that a layer runs, mean over layers."""
    shape = workload.model
    products = 2 * shape.prompt_parameters * workload.prompt_tokens * run_share
    attention = 4 * shape.num_layers * shape.num_heads * shape.head_dim * pairs
    return products / ceilings.products_per_s(weights) + attention / ceilings.attention_per_s


def step_limit_s(
    workload: Workload,
    ceilings: Ceilings,
    held: int,
    kept_ratio: float,
    weights: WeightForm = "stored",
    storage: Storage = _MODEL,
) -> float:
    """Seconds of one decode step of `held` documents half way through their answers.

    kept_ratio: entries stored over those of an uncompressed cache.
    """
    shape = workload.model
    tokens = kept_ratio * (workload.prompt_tokens + workload.output_tokens / 2)
    read_s = step_bytes(shape, workload.torch_dtype.itemsize, weights) / ceilings.bytes_per_s
    head = shape.step_parameters - shape.prompt_parameters
    multiply_s = 2 * held * (shape.prompt_parameters / ceilings.products_per_s(weights) + head / ceilings.matmul_per_s)
    return max(read_s, multiply_s) + held * tokens * workload.stored_bytes_per_token(storage) / ceilings.bytes_per_s


def step_bytes(shape: LlamaShape, itemsize: int, weights: WeightForm) -> int:
    """Bytes of the weights that a decode step reads: all but the embedding table; of 8-bit ones with their scales."""
    if weights == "stored":
        return shape.step_parameters * itemsize
    scales = 4 * shape.num_layers * sum(to for _, to in shape.layer_matrices)
    return shape.prompt_parameters + scales + (shape.step_parameters - shape.prompt_parameters) * itemsize


def weight_bytes(workload: Workload, weights: WeightForm) -> int:
    """Bytes of the whole model, the embedding table included."""
    shape, itemsize = workload.model, workload.torch_dtype.itemsize
    return step_bytes(shape, itemsize, weights) + shape.vocab_size * shape.hidden_size * itemsize


def document_limit_s(
    workload: Workload,
    ceilings: Ceilings,
    held: int,
    kept_ratio: float,
    pairs: float,
    weights: WeightForm = "stored",
    storage: Storage = _MODEL,
    run_share: float = 1.0,
) -> float:
    """Seconds of one document, its share of the decode steps included."""
    steps = workload.output_tokens - 1
    step_s = step_limit_s(workload, ceilings, held, kept_ratio, weights, storage)
    return prefill_limit_s(workload, ceilings, pairs, weights, run_share) + steps * step_s / held
