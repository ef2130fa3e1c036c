"""Causal attention: the fused path against the dense definition, on odd lengths and dtypes."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops.causal import causal_attention
from corm_batch.ops.dense import dense_attention

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("features", ["plain", "window", "softcap", "sink"])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "width"), [(6, 2, 129, 64), (4, 4, 1, 80), (8, 1, 63, 32)])
def test_matches_the_dense_definition_in_float32(device, dtype, features, heads, kv_heads, tokens, width):
    query, key, value = (torch.randn(h, tokens, width, device=device).to(dtype) for h in (heads, kv_heads, kv_heads))
    window = 20 if features == "window" else None
    softcap = 2.0 if features == "softcap" else None
    sink = torch.randn(heads, device=device) if features == "sink" else None
    out, lse = causal_attention(query, key, value, 0.2, softcap, window, sink)
    step = torch.arange(1, tokens + 1, dtype=torch.int32, device=device)
    first = step.expand(kv_heads, -1)
    last = first + (window - 1 if window else tokens)
    expected, expected_lse = dense_attention(
        query.float(), key.float(), value.float(), step, first, last, 0.2, softcap, sink
    )
    assert out.dtype == dtype
    assert out.shape == query.shape
    assert (out.float() - expected).norm() / expected.norm() < TOLERANCE[dtype]
    torch.testing.assert_close(lse, expected_lse, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
