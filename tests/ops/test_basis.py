"""Directions of keys and values: what is stored, what is rebuilt of it, and what kernels are told."""

from __future__ import annotations

import math

import pytest
import torch

from corm_batch.ops.basis import Basis, main_directions
from corm_batch.ops.rotary import Rotary
from tests.ops.forms import some_basis


def entries(*lead, head_dim=16):
    return torch.randn(*lead, head_dim), torch.randn(*lead, head_dim), torch.randint(1, 500, lead, dtype=torch.int32)


@pytest.mark.parametrize("lead", [(2, 5), (3, 2, 5), (2, 0)])
def test_what_lies_in_the_directions_comes_back_and_the_rest_is_gone(lead):
    basis, (key, value, position) = some_basis(2, 16, 6, 10, scale=1.3), entries(*lead)
    stored = basis.project(key, value, position)
    assert [part.shape[-1] for part in stored] == [6, 10]
    rebuilt = basis.rebuild(*stored, position)
    again = basis.rebuild(*basis.project(*rebuilt, position), position)
    torch.testing.assert_close(again, rebuilt, rtol=1e-4, atol=1e-4)
    for head in range(2):
        still = basis.rotary.undo(rebuilt[0][..., head, :, :], position[..., head, :] - 1)
        before = basis.rotary.undo(key[..., head, :, :], position[..., head, :] - 1)
        torch.testing.assert_close(still @ basis.key[head], before @ basis.key[head], rtol=1e-4, atol=1e-4)
        left = still - still @ basis.key[head] @ basis.key[head].T
        assert left.abs().sum() < 1e-2


def test_what_was_not_read_stays_empty():
    basis, (key, value, position) = some_basis(2, 16, 6, 10), entries(2, 5)
    nothing, rebuilt = basis.rebuild(key[..., :0], value[..., :10], position)
    assert (nothing.shape[-1], rebuilt.shape[-1]) == (0, 16)


def test_stored_again_and_again_an_entry_settles_within_its_own_rounding():
    """As streaming prefill does it after every chunk."""
    basis, (key, value, position) = some_basis(2, 64, 40, 56, torch.bfloat16), entries(2, 80, head_dim=64)
    first = stored = basis.project(key.bfloat16(), value.bfloat16(), position)
    for _ in range(60):
        before = stored
        stored = basis.project(*(part.bfloat16() for part in basis.rebuild(*stored, position)), position)
    for one, two, other in zip(first, before, stored, strict=True):
        assert torch.equal(two, other)
        assert (one.float() - other.float()).norm() / one.float().norm() < 2**-8


def test_what_kernels_are_told_is_the_same():
    frequencies = torch.tensor([3.2, 1.0, 0.01, 1e-4, 0.0])
    directions = torch.linalg.qr(torch.randn(2, 10, 10)).Q
    basis = Basis.of(directions[..., :7], directions[..., :4], Rotary(frequencies, 1.5), torch.float32)
    key = torch.randn(2, 3, 7)
    first, second = (key @ half for half in basis.halves)
    position = torch.tensor([1, 2, 99_999], dtype=torch.int32)
    angle = (position - 1)[:, None].double() * basis.turns.double() / 2**32 * 2 * math.pi
    exact = (position - 1)[:, None].double() * frequencies.double()
    torch.testing.assert_close(angle.sin(), exact.sin(), rtol=0, atol=1e-4)
    turned = torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), dim=-1)
    rebuilt, _ = basis.rebuild(key, torch.randn(2, 3, 4), position.expand(2, -1))
    torch.testing.assert_close(turned.float()[:, :2], rebuilt[:, :2], rtol=1e-4, atol=1e-5)
    out = torch.randn(5, 6, 4)
    wide = torch.einsum("skgv,kdv->skgd", out.view(5, 2, 3, 4), basis.value).flatten(1, 2)
    torch.testing.assert_close(basis.widened(out), wide)


def test_main_directions_are_left_singular_vectors():
    vectors = torch.randn(3, 40, 8) * torch.logspace(1, -2, 8)
    found = main_directions(vectors.double().mT @ vectors.double(), 5)
    expected = torch.linalg.svd(vectors.mT).U[..., :5]
    torch.testing.assert_close(found.mT @ found, torch.eye(5).expand(3, -1, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close((found.mT @ expected).abs(), torch.eye(5).expand(3, -1, -1), rtol=0, atol=1e-3)
