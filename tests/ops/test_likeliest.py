"""The likeliest token of a row, against a literal loop."""

from __future__ import annotations

import math

import pytest
import torch

from corm_batch.ops.likeliest import likeliest_tokens
from tests.ops.devices import KERNEL_DEVICES

SHAPES = [(1, 1), (3, 65), (5, 200), (2, 64)]
ODD = {
    (-torch.inf,): (0, -math.inf, 0.0),
    (1.0, 3.0, 3.0): (1, 3.0, math.log(math.e + 2 * math.exp(3))),
    (-torch.inf, -torch.inf, -7.0): (2, -7.0, -7.0),
    (300.0, 300.5): (1, 300.5, 300.5 + math.log1p(math.exp(-0.5))),
}


def assert_likeliest(found, logits):
    """Tokens exactly, the other numbers to float32."""
    for row, token, top, total in zip(logits.tolist(), *(one.tolist() for one in found), strict=True):
        assert token == row.index(max(row))
        assert top == max(row)
        assert total == pytest.approx(math.log(sum(math.exp(one) for one in row)), abs=1e-5)


def drawn(num_rows, vocab_size, dtype):
    """In strides of their own; of few values, so that some are equal."""
    return (torch.randn(num_rows, vocab_size) * 4).round().to(dtype).t().contiguous().t()


@pytest.mark.parametrize(("num_rows", "vocab_size"), SHAPES)
def test_definition_is_a_loop_over_tokens(num_rows, vocab_size):
    logits = drawn(num_rows, vocab_size, torch.float32)
    assert_likeliest(likeliest_tokens(logits), logits)


def assert_odd(apply, device):
    for row, expected in ODD.items():
        found = apply(torch.tensor([row, row], device=device))
        for one in torch.stack([column.double() for column in found]).t().tolist():
            assert one == pytest.approx(expected)
    for odd in (torch.nan, torch.inf):
        token, _, total = apply(torch.tensor([[0.0, 1.0, 2.0], [0.0, odd, 2.0], [odd, odd, odd]], device=device))
        assert token[0] == 2
        assert all(0 <= one < 3 for one in token.tolist())
        assert total.isnan().tolist() == [False, True, True]
    assert [len(one) for one in apply(torch.empty(0, 5, device=device))] == [0, 0, 0]


def test_definition_of_odd_rows():
    assert_odd(likeliest_tokens, "cpu")


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_rows", "vocab_size"), SHAPES)
def test_kernel_matches(num_rows, vocab_size, dtype, device, monkeypatch):
    kernel = pytest.importorskip("corm_batch.ops.kernels.likeliest")
    monkeypatch.setattr(kernel, "_TILE", 64)
    logits = drawn(num_rows, vocab_size, dtype)
    assert_likeliest(kernel.likeliest_tokens(logits.to(device)), logits.float())


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_kernel_of_odd_rows(device, monkeypatch):
    kernel = pytest.importorskip("corm_batch.ops.kernels.likeliest")
    monkeypatch.setattr(kernel, "_TILE", 2)
    assert_odd(kernel.likeliest_tokens, device)


@pytest.mark.gpu
def test_kernel_matches_on_a_batch_of_many_tokens():
    kernel = pytest.importorskip("corm_batch.ops.kernels.likeliest")
    logits = torch.randn(300, 128_257, device="cuda").bfloat16()
    token, top, total = kernel.likeliest_tokens(logits)
    expected = likeliest_tokens(logits)
    assert torch.equal(logits.float().gather(1, token[:, None])[:, 0], expected[1])
    assert torch.equal(top, expected[1])
    torch.testing.assert_close(total, expected[2], rtol=0, atol=1e-5)
