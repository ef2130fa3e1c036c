"""Keys with an outlier, as some released models have them, and what attention loses by rounding them."""

from __future__ import annotations

import torch


def attention_off(rounded, bias):
    """Relative error of attention over what `rounded` makes of keys and values. The keys have so large a bias in a slow
    pair of dimensions, turned by position, and queries look little at it.
    """
    draw = torch.Generator().manual_seed(0)
    angle = torch.arange(512) * 0.002
    key, value = torch.randn(2, 512, 64, generator=draw).double()
    key[:, 31] += bias * angle.cos()
    key[:, 63] += bias * angle.sin()
    query = torch.randn(20, 64, generator=draw).double()
    query[:, [31, 63]] *= 0.05

    def attention(keys, values):
        return torch.softmax(query @ keys.double().T / 8, dim=-1) @ values.double()

    expected = attention(key, value)
    return float((attention(*rounded(key, value)) - expected).norm() / expected.norm())
