"""The GPU's dense attention against the definition, run in float32 on the same numbers."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops import dense as definition
from corm_batch.ops.pages import NEVER
from tests.ops.devices import KERNEL_DEVICES

pytest.importorskip("triton")
kernels = pytest.importorskip("corm_batch.ops.kernels.dense")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def skip_what_cannot_run(device, dtype):
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies no bfloat16")


def packed(rows, heads, width, device, dtype):
    """[heads, rows, width], a slice of a packed [rows, heads, width] tensor as the model makes it."""
    return torch.randn(rows + 3, heads, width, device=device).to(dtype)[2 : 2 + rows].transpose(0, 1)


def make_chunk(group, kv_heads, rows, kept, width, device, dtype):
    """A chunk's rows, and what they see: ragged kept entries, padding with garbage in it, then their own."""
    total = kept + rows
    query = packed(rows, group * kv_heads, width, device, dtype)
    key, value = (packed(total, kv_heads, width, device, dtype) for _ in range(2))
    position = torch.arange(1, total + 1, dtype=torch.int32, device=device).repeat(kv_heads, 1)
    padding = torch.zeros_like(position, dtype=torch.bool)
    for k in range(kv_heads):
        padding[k, int(torch.randint(kept // 2, kept + 1, ())) : kept] = True
    position[padding] = NEVER
    step = torch.arange(kept + 1, total + 1, dtype=torch.int32, device=device)
    return query, key, value, step, position, torch.full_like(position, NEVER), padding


def assert_equals_definition(query, key, value, step, first, last, *features, padding=None):
    """Garbage replaces the padding before the kernel sees it, zeros before the definition does."""
    padding = torch.zeros_like(first, dtype=torch.bool) if padding is None else padding
    clean = [x.float().masked_fill(padding[..., None], 0.0) for x in (key, value)]
    expected_out, expected_lse = definition.dense_attention(query.float(), *clean, step, first, last, *features)
    for tensor in (key, value):
        tensor.masked_fill_(padding[..., None], torch.nan)
    out, lse = kernels.dense_attention(query, key, value, step, first, last, *features)
    assert out.dtype == query.dtype
    assert lse.dtype == torch.float32
    assert ((out.float() - expected_out).norm() / expected_out.norm()).item() < TOLERANCE[query.dtype]
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("group", "kv_heads", "rows", "kept", "width"),
    [
        (1, 2, 130, 170, 128),
        (4, 1, 63, 300, 64),
        (2, 3, 7, 77, 80),
        (12, 1, 1, 5, 16),
        (8, 1, 33, 0, 96),
        (1, 1, 1, 0, 256),
        (1, 1, 140, 20, 256),
    ],
)
def test_a_chunk_sees_what_was_kept_and_itself(group, kv_heads, rows, kept, width, dtype, device):
    skip_what_cannot_run(device, dtype)
    *case, padding = make_chunk(group, kv_heads, rows, kept, width, device, dtype)
    assert_equals_definition(*case, width**-0.5, padding=padding)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", ["softcap", "sink", "both"])
def test_soft_caps_and_sinks(features, dtype, device):
    skip_what_cannot_run(device, dtype)
    *case, padding = make_chunk(2, 2, 40, 150, 64, device, dtype)
    softcap = 3.0 if features != "sink" else None
    sink = torch.randn(4, device=device, dtype=dtype) if features != "softcap" else None
    assert_equals_definition(*case, 0.3, softcap, sink, padding=padding)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("window", [1, 16, 130, 1000])
def test_a_sliding_window_over_a_whole_prompt(window, device):
    *case, _ = make_chunk(2, 2, 400, 0, 64, device, torch.float16)
    query, key, value, step, *_ = case
    first = step.expand(2, -1)  # as `ops.causal` passes it
    assert_equals_definition(query, key, value, step, first, first + window - 1, 0.125)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entries_born_and_gone_at_any_step(dtype, device):
    skip_what_cannot_run(device, dtype)
    query, key, value, step, *_ = make_chunk(3, 2, 70, 200, 32, device, dtype)
    first = torch.stack([torch.randperm(270) + 1 for _ in range(2)]).int().to(device)
    last = first + torch.randint(-5, 300, first.shape, dtype=torch.int32, device=device)
    first[:, 9], last[:, 9] = 1, NEVER  # every row sees something
    assert_equals_definition(query, key, value, step, first, last, 0.2)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_rows_that_see_nothing_give_their_sink(device):
    query, key, value, step, first, _, _ = make_chunk(2, 1, 5, 40, 16, device, torch.float32)
    sink = torch.randn(2, device=device)
    for entries in (40, 0):
        nothing = torch.zeros_like(first[:, :entries])
        case = (query, key[:, :entries], value[:, :entries], step, first[:, :entries], nothing, 1.0, None)
        out, lse = kernels.dense_attention(*case, sink)
        assert out.abs().max() == 0
        torch.testing.assert_close(lse, sink[:, None].expand(2, 5))
        out, lse = kernels.dense_attention(*case)
        assert out.abs().max() == 0
        assert (lse == -torch.inf).all()


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_no_rows_at_all(device):
    query, *rest, _ = make_chunk(2, 1, 5, 40, 16, device, torch.float32)
    key, value, step, first, last = rest
    out, lse = kernels.dense_attention(query[:, :0], key, value, step[:0], first, last, 1.0)
    assert out.shape == (2, 0, 16)
    assert lse.shape == (2, 0)


@pytest.mark.gpu
@pytest.mark.parametrize(("group", "rows", "kept"), [(1, 2048, 2100), (4, 1023, 4001), (4, 4096, 0)])
def test_sizes_that_are_served(group, rows, kept):
    *case, padding = make_chunk(group, 2, rows, kept, 128, "cuda", torch.bfloat16)
    assert_equals_definition(*case, 128**-0.5, padding=padding)
