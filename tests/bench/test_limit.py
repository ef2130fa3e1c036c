"""The limit's formula against numbers worked out by hand."""

import pytest

from corm_batch.bench.ceilings import Ceilings
from corm_batch.bench.limit import attended_pairs, document_limit_s, prefill_limit_s, propagated, step_limit_s
from corm_batch.bench.workload import WORKLOADS
from corm_batch.propagation.attention import AttentionShare
from corm_batch.propagation.cumulative import CumulativeAttention
from corm_batch.storage.fp8 import Fp8
from corm_batch.storage.model import Model

RATES = Ceilings(
    copy_gb_per_s=4000, read_gb_per_s=4000, matmul_tflop_per_s=600, causal_tflop_per_s=500, sdpa_tflop_per_s=400
)
WORKLOAD = WORKLOADS["llama2-7b-4k"]


@pytest.mark.parametrize(
    ("prompt", "chunk", "max_kept", "pairs"),
    [
        (100, 100, 100, 5000),  # exact
        (100, 100, 10, 5000),  # exact prefill sees everything whatever is kept
        (100, 25, 100, 5000),  # chunks that see all before them
        (100, 25, 10, 3 * 25 * 10 + 4 * 25 * 25 / 2),
        (60, 25, 30, 25 * 25 + 10 * 30 + (25 * 25 + 25 * 25 + 10 * 10) / 2),
    ],
)
def test_pairs(prompt, chunk, max_kept, pairs):
    assert attended_pairs(prompt, chunk, max_kept) == pairs


def test_prefill():
    """6.476e9 weights: 53.05e12 operations at 600e12; 8.39e6 pairs: 4.398e12 at 500e12."""
    products = 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008) * 4096 / 600e12
    attention = 4 * 32 * 32 * 128 * 4096**2 / 2 / 500e12
    assert prefill_limit_s(WORKLOAD, RATES, 4096**2 / 2) == pytest.approx(products + attention)
    assert products == pytest.approx(0.08842, rel=1e-3)
    assert attention == pytest.approx(0.008796, rel=1e-3)


def test_a_step_of_few_documents_waits_for_the_weights():
    """6.607e9 weights of two bytes at 4e12 a second, and (4096 + 128) * 524288 bytes of cache a document."""
    weights, cache = 6_607_343_616 * 2 / 4e12, 4224 * 524_288 / 4e12
    assert step_limit_s(WORKLOAD, RATES, 10, 1.0) == pytest.approx(weights + 10 * cache)
    assert step_limit_s(WORKLOAD, RATES, 10, 0.25) == pytest.approx(weights + 2.5 * cache)


def test_a_step_of_many_documents_waits_for_the_products():
    held = 1000
    products, cache = 2 * 6_607_343_616 * held / 600e12, 4224 * 524_288 / 4e12
    assert step_limit_s(WORKLOAD, RATES, held, 1.0) == pytest.approx(products + held * cache)


def test_a_document_is_its_prefill_and_its_share_of_the_steps():
    pairs = 4096**2 / 2
    prefill, step = prefill_limit_s(WORKLOAD, RATES, pairs), step_limit_s(WORKLOAD, RATES, 50, 1.0)
    assert document_limit_s(WORKLOAD, RATES, 50, 1.0, pairs) == pytest.approx(prefill + 255 * step / 50)


def test_8_bit_weights_are_read_and_multiplied_at_their_own_rate():
    """Layers of 6.476e9 weights in a byte each, a scale of 4 bytes a row, norms and head of 131.3e6 in two."""
    fast = RATES.model_copy(update={"fp8_tflop_per_s": 1200})
    layers, head = WORKLOAD.model.prompt_parameters, 6_607_343_616 - WORKLOAD.model.prompt_parameters
    rows = 32 * (3 * 4096 + 4096 + 2 * 11008 + 4096)
    cache = 4224 * 524_288 / 4e12
    assert step_limit_s(WORKLOAD, fast, 10, 1.0, "fp8") == pytest.approx(
        (layers + 4 * rows + 2 * head) / 4e12 + 10 * cache
    )
    products = 2000 * (layers / 1200e12 + head / 600e12)
    assert step_limit_s(WORKLOAD, fast, 1000, 1.0, "fp8") == pytest.approx(products + 1000 * cache)
    assert prefill_limit_s(WORKLOAD, fast, 0, "fp8") == pytest.approx(prefill_limit_s(WORKLOAD, fast, 0) / 2)


def test_entries_in_8_bits_are_read_in_fewer_bytes():
    """128 + 128 bytes and two scales of four bytes, of 32 layers and as many heads."""
    weights, cache = 6_607_343_616 * 2 / 4e12, 4224 * 32 * 32 * 264 / 4e12
    assert step_limit_s(WORKLOAD, RATES, 10, 1.0, storage=Fp8()) == pytest.approx(weights + 10 * cache)
    assert WORKLOAD.stored_bytes_per_token(Model()) == WORKLOAD.kv_bytes_per_token


@pytest.mark.parametrize(
    ("propagation", "chunk", "share", "pairs"),
    [
        (None, 4000, 1.0, 8e6),
        (AttentionShare(share=0.25), 4000, 0.625, (8e6 + 1000**2 / 2) / 2),
        (AttentionShare(layer=1, share=0.25), 4000, 0.4375, (8e6 + 3 * 1000**2 / 2) / 4),
        (
            AttentionShare(share=0.25),
            1000,
            0.625,
            (attended_pairs(4000, 1000, 600) + attended_pairs(1000, 250, 600)) / 2,
        ),
        (CumulativeAttention(), 4000, 0.5165, (8e6 + 132**2 / 2) / 2),  # as few as may be: those that always go on
        (AttentionShare(share=0.25), 9000, 0.625, (8e6 + 1000**2 / 2) / 2),
    ],
)
def test_propagation_leaves_fewer_tokens_to_later_layers(propagation, chunk, share, pairs):
    found = propagated(propagation, 4, 4000, chunk, 600)
    assert found == (pytest.approx(share), pytest.approx(pairs))
    products = prefill_limit_s(WORKLOAD, RATES, 0, run_share=found[0])
    assert products == pytest.approx(found[0] * prefill_limit_s(WORKLOAD, RATES, 0))
