"""Entries of whole numbers in a byte each: the nearest multiples of a 127th of the largest, nothing infinite."""

from __future__ import annotations

import pytest
import torch

from corm_batch.storage.int8 import Int8

INT8 = Int8()


def decoded(key):
    return INT8.decode(INT8.encode(key, key))[0]


@pytest.mark.parametrize("exponent", [-90, -20, 0, 3, 90])
def test_every_number_is_the_nearest_multiple_of_a_step_that_reaches_the_largest(exponent):
    draw = torch.Generator().manual_seed(exponent)
    key = (torch.randn(200, 32, generator=draw) * 2.0**exponent).bfloat16()
    stored = INT8.encode(key, key)
    largest = key.double().abs().amax(dim=-1)
    torch.testing.assert_close(stored.scales[0].double(), largest / 127, rtol=1e-7, atol=0)
    assert (stored.key.int().abs().amax(dim=-1) == 127).all()
    assert ((decoded(key).double() - key.double()).abs() <= largest[:, None] * (0.5 / 127 + 1e-7)).all()


def test_halves_go_up_and_zeros_stay_zeros():
    stored = INT8.encode(torch.tensor([[127.0, 2.5, -2.5, 2.4]]), torch.zeros(1, 4))
    assert stored.key.tolist() == [[127, 3, -2, 2]]
    assert not stored.value.any()
    assert not INT8.decode(stored)[1].any()


@pytest.mark.parametrize("largest", [torch.inf, 3e38, 1e-38, 1e-45])
def test_nothing_becomes_infinite_or_no_number(largest):
    for number in (largest, -largest):
        found = decoded(torch.tensor([[number, 1.0, 0.0]]))
        assert found.isfinite().all()
        assert found[0, 2] == 0
