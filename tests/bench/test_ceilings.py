"""How ceilings are counted: bytes and operations over seconds."""

import pytest
import torch

from corm_batch.bench import ceilings
from corm_batch.bench.ceilings import Ceilings, measure_ceilings

CPU = torch.device("cpu")


def test_counts(small, monkeypatch):
    """With two seconds a call, rates are half of what a call moves and computes."""

    def two_seconds(call, device):
        call()
        return 2.0

    monkeypatch.setattr(ceilings, "_seconds", two_seconds)
    found = measure_ceilings(small, CPU)
    assert found.copy_gb_per_s == pytest.approx(2**26 / 1e9)
    assert found.read_gb_per_s == pytest.approx(2**25 / 1e9)
    assert found.matmul_tflop_per_s == pytest.approx(
        256 * small.model.prompt_parameters / small.model.num_layers / 1e12
    )
    # 96 * 96 / 2 pairs, in each of 4 heads 2 * 16 operations for the score and as many for the value
    assert found.causal_tflop_per_s == found.sdpa_tflop_per_s == pytest.approx(96 * 96 / 2 * 4 * 64 / 2 / 1e12)


def test_the_faster_of_two_ways_is_the_ceiling():
    found = Ceilings(copy_gb_per_s=3, read_gb_per_s=4, matmul_tflop_per_s=5, causal_tflop_per_s=7, sdpa_tflop_per_s=6)
    assert (found.bytes_per_s, found.matmul_per_s, found.attention_per_s) == (4e9, 5e12, 7e12)


def test_a_machine_reaches_something(small):
    found = measure_ceilings(small, CPU).model_dump()
    assert found.pop("fp8_tflop_per_s") is None
    assert all(rate > 0 for rate in found.values())


def test_products_of_8_bit_weights_have_a_rate_of_their_own(small):
    found = Ceilings(
        copy_gb_per_s=3, read_gb_per_s=4, matmul_tflop_per_s=5, causal_tflop_per_s=7, sdpa_tflop_per_s=6,
        fp8_tflop_per_s=9,
    )  # fmt: skip
    assert (found.products_per_s("stored"), found.products_per_s("fp8")) == (5e12, 9e12)
    without = found.model_copy(update={"fp8_tflop_per_s": None})
    assert without.products_per_s("fp8") == 5e12
    assert ceilings.products_per_s(small, CPU, "fp8", 3) > 0
