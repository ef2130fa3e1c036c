"""Entries in 8 bits: nearest numbers, nothing infinite, and keys with outliers beyond what e4m3 has."""

from __future__ import annotations

import pytest
import torch

from corm_batch.storage.fp8 import Fp8
from tests.storage.outliers import attention_off

FP8 = Fp8()
NUMBERS = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
"""All that e4m3 has from 0 on, in order."""


def decoded(key):
    return FP8.decode(FP8.encode(key, key))[0]


@pytest.mark.parametrize("exponent", [-90, -20, 0, 3, 90])
def test_every_number_is_the_nearest_there_is_at_a_power_of_two(exponent):
    draw = torch.Generator().manual_seed(exponent)
    key = torch.randn(200, 32, generator=draw) * 2.0**exponent
    stored = FP8.encode(key, key)
    scale = stored.scales[0].double()[:, None]
    assert (torch.frexp(scale).mantissa == 0.5).all()
    ratio = key.double().abs() / scale
    nearest = (ratio[..., None] - NUMBERS).abs().amin(dim=-1)
    assert torch.equal((stored.key.double().abs() - ratio).abs(), nearest)
    assert torch.equal(stored.key.float().sign(), torch.where(stored.key.float() == 0, 0.0, key.sign()))
    assert (stored.key.float().abs().amax(dim=-1) >= 240).all()  # a bit less would do for none


@pytest.mark.parametrize(
    ("largest", "number", "scale"),
    [(448.0, 448, 1), (464.0, 448, 1), (464.1, 240, 2), (480.0, 240, 2), (224.0, 448, 0.5), (1.0, 256, 2.0**-8)],
)
def test_the_scale_is_the_least_at_which_the_largest_number_is_there(largest, number, scale):
    stored = FP8.encode(torch.tensor([[0.1, -largest]]), torch.zeros(1, 2))
    assert stored.key[0, 1].float() == -number
    assert stored.scales[0].tolist() == [scale]
    assert not stored.value.float().any()


@pytest.mark.parametrize("largest", [torch.inf, 3e38, 1e-38, 1e-45])
def test_nothing_becomes_infinite_or_no_number(largest):
    for number in (largest, -largest):
        found = decoded(torch.tensor([[number, 1.0, 0.0]]))
        assert found.isfinite().all()
        assert found[0, 2] == 0


def test_keys_with_outliers_of_several_hundred_cost_little():
    """Without scales, what is above 448 would be cut off."""

    def cast(key, value):
        return [number.float().clamp(-448, 448).to(torch.float8_e4m3fn) for number in (key, value)]

    off, cast_off = (attention_off(kept, 700) for kept in (lambda *each: FP8.decode(FP8.encode(*each)), cast))
    assert off < 0.15
    assert off < cast_off / 3
