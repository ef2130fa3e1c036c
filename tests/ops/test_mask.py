"""Masks of tokens, against a literal loop."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops.mask import mask_tokens
from tests.ops.devices import KERNEL_DEVICES

SHAPES = [(1, [0], 1), (3, [2, 0], 33), (5, [1, 3, 4], 321), (2, [1], 97)]


def assert_masks(apply, num_rows, rows, vocab_size, device):
    """Words of all bits and of none, the highest one too, and one word more than there are tokens."""
    logits = torch.randn(num_rows, vocab_size)
    logits[:, 0] = torch.nan
    mask = torch.randint(-(2**31), 2**31, (len(rows), -(-vocab_size // 32) + 1)).int()
    mask[0, :1], mask[-1, -2:] = -1, 0
    expected = logits.clone()
    for row, words in zip(rows, mask.tolist(), strict=True):
        for token in range(vocab_size):
            if not words[token // 32] >> token % 32 & 1:
                expected[row, token] = -torch.inf
    found = logits.t().contiguous().t().to(device)  # in strides of its own
    apply(found, torch.tensor(rows, device=device), mask.to(device))
    assert torch.equal(found.cpu().nan_to_num(9.0), expected.nan_to_num(9.0))


@pytest.mark.parametrize(("num_rows", "rows", "vocab_size"), SHAPES)
def test_definition_is_a_loop_over_bits(num_rows, rows, vocab_size):
    assert_masks(mask_tokens, num_rows, rows, vocab_size, "cpu")


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(("num_rows", "rows", "vocab_size"), SHAPES)
def test_kernel_matches(num_rows, rows, vocab_size, device, monkeypatch):
    kernel = pytest.importorskip("corm_batch.ops.kernels.mask")
    monkeypatch.setattr(kernel, "_TILE", 64)
    assert_masks(kernel.mask_tokens, num_rows, rows, vocab_size, device)


@pytest.mark.gpu
def test_kernel_matches_on_a_batch_of_many_tokens():
    kernel = pytest.importorskip("corm_batch.ops.kernels.mask")
    rows, logits = torch.arange(0, 256, 2, device="cuda"), torch.randn(256, 128_257, device="cuda")
    mask = torch.randint(-(2**31), 2**31, (128, 4009), device="cuda").int()
    expected = logits.clone()
    mask_tokens(expected, rows, mask)
    kernel.mask_tokens(logits, rows, mask)
    assert torch.equal(logits, expected)
