"""Entries of whole numbers in half a byte each: where each lies, what its quarter's step is, and what is refused."""

from __future__ import annotations

import pytest
import torch

from corm_batch.errors import UnsupportedModelError
from corm_batch.ops.pages import stored_bytes
from corm_batch.storage.int4 import Int4

INT4 = Int4()


def decoded(key):
    return INT4.decode(INT4.encode(key, key))[0]


def test_two_numbers_a_byte_and_two_largest_a_column():
    key = torch.tensor([[7.0, -3.0, 14.0, 1.0, 0.0, 0.0, -0.875, 0.5]])  # quarters of largest 7, 14, 0 and 0.875
    stored = INT4.encode(key, key)
    assert stored.key.tolist() == [[15 | 5 << 4, 15 | 9 << 4, 8 | 8 << 4, 1 | 12 << 4]]
    halves = [half for column in stored.scales[:2] for half in ((column & 0xFFFF) << 16, column & -0x10000)]
    assert [float(half.view(torch.float32)) for half in halves] == [7.0, 14.0, 2.0**-100, 0.875]
    assert decoded(key)[0].tolist() == pytest.approx([7.0, -3.0, 14.0, 2.0, 0.0, 0.0, -0.875, 0.5])


@pytest.mark.parametrize("exponent", [-90, 0, 90])
def test_an_error_is_at_most_half_a_step_of_its_quarter(exponent):
    draw = torch.Generator().manual_seed(exponent)
    key = (torch.randn(200, 32, generator=draw) * 2.0**exponent).bfloat16()
    key[:, 3] *= 50  # an outlier: three quarters are as exact as without
    largest = key.double().unflatten(-1, (4, 8)).abs().amax(dim=-1).repeat_interleave(8, dim=-1)
    assert ((decoded(key).double() - key.double()).abs() <= largest * (0.5 / 7 + 1e-6)).all()


@pytest.mark.parametrize("largest", [torch.inf, 3e38, 1e-38, 1e-45])
def test_nothing_becomes_infinite_or_no_number(largest):
    for number in (largest, -largest):
        found = decoded(torch.tensor([[number, 1.0, 0.0, 0.0]]))
        assert found.isfinite().all()
        assert found[0, 1:].tolist() == [1.0, 0.0, 0.0]


def test_bytes_are_half_a_byte_a_number_and_two_a_quarter():
    assert stored_bytes(INT4, 128, torch.bfloat16) == 2 * (64 + 8)
    with pytest.raises(UnsupportedModelError, match=r"engine\.storage: int4 needs heads of a width divisible by 4"):
        INT4.columns(30, torch.bfloat16)
