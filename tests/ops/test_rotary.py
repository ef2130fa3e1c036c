"""Rotary positions against one pair at a time."""

from __future__ import annotations

import math

import pytest
import torch

from corm_batch.ops.rotary import Rotary, turn_moments

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def make(width=8, rotated=6, scale=1.5, device="cpu"):
    frequencies = torch.tensor([1.0, 0.3, 0.01])[: rotated // 2].to(device)
    return Rotary(frequencies, scale), torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0)).to(device)


@pytest.mark.parametrize("device", DEVICES)
def test_each_pair_of_halves_is_turned_by_its_angle_and_the_rest_stays(device):
    rotary, x = make(device=device)
    position = torch.tensor([0, 3, 10, 500, 7], device=device)
    turned = rotary.rotate(x, position)
    for row, at in enumerate(position.tolist()):
        for pair, frequency in enumerate((1.0, 0.3, 0.01)):
            a, b = x[1, row, pair].item(), x[1, row, pair + 3].item()
            cos, sin = 1.5 * math.cos(at * frequency), 1.5 * math.sin(at * frequency)
            assert math.isclose(turned[1, row, pair].item(), a * cos - b * sin, abs_tol=1e-4)
            assert math.isclose(turned[1, row, pair + 3].item(), b * cos + a * sin, abs_tol=1e-4)
    assert torch.equal(turned[..., 6:], x[..., 6:])
    torch.testing.assert_close(rotary.undo(turned, position), x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_moments_turned_are_the_moments_of_what_the_mean_rotation_makes_of_vectors(device):
    rotary, x = make(device=device)
    cos, sin = rotary.ahead(40, 12)
    x = x.flatten(0, 1)
    turned = torch.stack([rotary.rotate(x, torch.full((10,), at, device=device)) for at in range(40, 52)]).mean(dim=0)
    mean, covariance = turn_moments(x.mean(dim=0), torch.cov(x.T, correction=0), cos, sin)
    torch.testing.assert_close(mean, turned.mean(dim=0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(covariance, torch.cov(turned.T, correction=0), atol=1e-4, rtol=1e-4)
