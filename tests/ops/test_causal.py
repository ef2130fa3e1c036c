"""Causal attention: the fused paths against the dense definition, on odd lengths, dtypes and layouts."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from corm_batch.ops import causal
from corm_batch.ops.causal import causal_attention, packed_causal_attention, padded_length
from corm_batch.ops.dense import dense_attention
from corm_batch.ops.packing import Packing

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def definition(query, key, value, scale, softcap=None, window=None, sink=None):
    tokens, kv_heads = query.shape[1], key.shape[0]
    step = torch.arange(1, tokens + 1, dtype=torch.int32, device=query.device)
    first = step.expand(kv_heads, -1)
    last = first + (window - 1 if window else tokens)
    return dense_attention(query.float(), key.float(), value.float(), step, first, last, scale, softcap, sink)


def check(found, expected, dtype, shape):
    (out, lse), (expected_out, expected_lse) = found, expected
    assert out.dtype == dtype
    assert out.shape == shape
    assert lse.dtype == torch.float32
    assert (out.float() - expected_out).norm() / expected_out.norm() < TOLERANCE[dtype]
    torch.testing.assert_close(lse, expected_lse, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("features", ["plain", "window", "softcap", "sink"])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "width"), [(6, 2, 129, 64), (4, 4, 1, 80), (8, 1, 63, 32)])
def test_matches_the_dense_definition_in_float32(device, dtype, features, heads, kv_heads, tokens, width):
    query, key, value = (torch.randn(h, tokens, width, device=device).to(dtype) for h in (heads, kv_heads, kv_heads))
    window = 20 if features == "window" else None
    softcap = 2.0 if features == "softcap" else None
    sink = torch.randn(heads, device=device) if features == "sink" else None
    found = causal_attention(query, key, value, 0.2, softcap, window, sink)
    check(found, definition(query, key, value, 0.2, softcap, window, sink), dtype, query.shape)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [None, 20])
def test_tokens_that_are_missing_are_seen_by_nobody(device, window):
    """As where all are there and those keys are hidden; a window reaches as many steps back, not as many tokens."""
    query, key, value = (torch.randn(h, 130, 32, device=device) for h in (4, 2, 2))
    there = torch.cat((torch.arange(3), torch.arange(40, 77), torch.arange(90, 130))).to(device)
    step = (there + 1).int()
    mask = torch.full((2, 130), torch.iinfo(torch.int32).max, dtype=torch.int32, device=device)
    mask[:, there] = step
    steps = torch.arange(1, 131, dtype=torch.int32, device=device)
    last = (steps + (window or 130) - 1).expand(2, -1)
    out, lse = dense_attention(query, key, value, steps, mask, last, 0.2)
    packed = (x[:, there] for x in (query, key, value))
    found = causal_attention(*packed, 0.2, window=window, step_T=step)
    check(found, (out[:, there], lse[:, there]), torch.float32, (4, len(there), 32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 4, 8])
@pytest.mark.parametrize("tokens", [1, 7, 128, 1000, 4097])
def test_every_kernel_matches_the_definition_on_views_of_a_packed_projection(dtype, width, group, tokens):
    heads, kv_heads, before, after = 8, 8 // group, 3, 5
    packed = torch.randn(before + tokens + after, (heads + 2 * kv_heads) * width, device="cuda").to(dtype)
    rows = packed[before : before + tokens].view(tokens, -1, width).transpose(0, 1)
    query, key, value = rows.split([heads, kv_heads, kv_heads])
    found = causal_attention(query, key, value, width**-0.5)
    check(found, definition(query, key, value, width**-0.5), dtype, query.shape)


@pytest.mark.gpu
def test_cudnn_takes_long_prompts_of_usual_widths_and_flash_what_it_may_not():
    query = torch.randn(4, 2048, 128, device="cuda", dtype=torch.bfloat16)
    if torch.cuda.get_device_capability()[0] == 9 and causal._flash_attention_3() is None:
        assert causal._kernel(query, query, query) is causal._cudnn
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        assert causal._kernel(query, query, query) is not causal._cudnn
        check(
            causal_attention(query, query, query, 0.1), definition(query, query, query, 0.1), query.dtype, query.shape
        )
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def test_another_dense_kernel_computes_what_no_fused_one_does():
    query = torch.randn(4, 9, 16)
    calls = []

    def dense(*args):
        calls.append(args)
        return dense_attention(*args)

    causal_attention(query, query, query, 0.2, dense=dense)
    assert not calls
    found = causal_attention(query, query, query, 0.2, window=3, dense=dense)
    assert len(calls) == 1
    check(found, definition(query, query, query, 0.2, window=3), query.dtype, query.shape)


def test_padded_lengths_are_few_and_little_longer():
    lengths = torch.randint(1, 131_073, (2000,)).tolist()
    padded = [padded_length(length) for length in lengths]
    for length, rounded in zip(lengths, padded, strict=True):
        assert rounded % 128 == 0
        assert length <= rounded < length + max(128, length / 15)
        assert padded_length(rounded) == rounded
    assert len(set(padded)) <= 128


@pytest.mark.parametrize("tokens", [600, 640])
def test_padding_for_cudnn_changes_nothing(tokens, monkeypatch):
    """cuDNN's entry, played by the definition: padded, one more axis on the log-sum-exp, and garbage behind the end."""
    seen = []

    def entry(query, key, value, bias, with_lse, dropout, is_causal, debug, *, scale):
        seen.append(query)
        assert (bias, with_lse, dropout, is_causal, debug) == (None, True, 0.0, True, False)
        out, lse = definition(query[0], key[0], value[0], scale)
        out[:, tokens:], lse[:, tokens:] = torch.nan, torch.nan
        return out[None], lse[None, ..., None], None

    monkeypatch.setattr(causal, "_aten", SimpleNamespace(_scaled_dot_product_cudnn_attention=entry))
    query, key, value = (torch.randn(tokens, h, 16).transpose(0, 1) for h in (4, 2, 2))
    found = causal._cudnn(query, key, value, 0.3)
    check(found, definition(query, key, value, 0.3), query.dtype, query.shape)
    assert seen[0].shape == (1, 4, 640, 16)
    assert seen[0].stride() == (640 * 4 * 16, 16, 4 * 16, 1)


def test_flash_attention_3_is_used_where_it_is_installed(monkeypatch):
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, return_attn_probs=False):
        assert causal
        assert return_attn_probs
        out, lse = definition(*(x[0].transpose(0, 1) for x in (q, k, v)), softmax_scale)
        return out.transpose(0, 1)[None], lse[None]

    module = ModuleType("flash_attn_interface")
    module.__spec__ = SimpleNamespace()
    module.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    causal._flash_attention_3.cache_clear()
    try:
        query, key, value = (torch.randn(h, 33, 16) for h in (4, 2, 2))
        found = causal._flash_3(query, key, value, 0.3)
        check(found, definition(query, key, value, 0.3), query.dtype, query.shape)
        module.flash_attn_func = lambda q, k, v: None  # before it gave out its log-sum-exp
        causal._flash_attention_3.cache_clear()
        assert causal._flash_attention_3() is None
    finally:
        causal._flash_attention_3.cache_clear()


def each_alone(packing, query, key, value, *features):
    found = [definition(query[:, part], key[:, part], value[:, part], *features) for part in packing.slices]
    return [torch.cat(both, dim=1) for both in zip(*found, strict=True)]


def packed(sizes, width, device, dtype, heads=4, kv_heads=2):
    """Views of one projection's rows, as a model makes them."""
    rows = torch.randn(sum(sizes), heads + 2 * kv_heads, width, device=device).to(dtype).transpose(0, 1)
    return Packing.of(sizes, torch.device(device)), *rows.split([heads, kv_heads, kv_heads])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("features", ["plain", "window", "softcap", "sink"])
@pytest.mark.parametrize("sizes", [[5, 1, 70, 33], [20, 20, 20], [41]], ids=str)
def test_packed_sequences_see_themselves_alone(device, dtype, features, sizes):
    packing, query, key, value = packed(sizes, 64, device, dtype)
    window = 20 if features == "window" else None
    softcap = 2.0 if features == "softcap" else None
    sink = torch.randn(4, device=device) if features == "sink" else None
    found = packed_causal_attention(query, key, value, packing, 0.2, softcap, window, sink)
    check(found, each_alone(packing, query, key, value, 0.2, softcap, window, sink), dtype, query.shape)


def test_a_window_of_packed_sequences_counts_their_steps_where_tokens_are_missing():
    packing, query, key, value = packed([3, 4], 16, "cpu", torch.float32)
    step = torch.tensor([1, 5, 6, 2, 3, 9, 12], dtype=torch.int32)
    found = packed_causal_attention(query, key, value, packing, 0.2, window=4, step_T=step)
    alone = [
        causal_attention(query[:, part], key[:, part], value[:, part], 0.2, window=4, step_T=step[part])
        for part in packing.slices
    ]
    check(found, [torch.cat(both, dim=1) for both in zip(*alone, strict=True)], torch.float32, query.shape)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize(
    "sizes", [[1024] * 3, [2048] * 3, [3900, 17, 1, 2048, 2048, 700], [1000, 0, 7], [4097, 300]], ids=str
)
def test_every_kernel_of_packed_sequences(dtype, width, sizes):
    packing, query, key, value = packed(sizes, width, "cuda", dtype, heads=8)
    found = packed_causal_attention(query, key, value, packing, width**-0.5)
    parts = [part for part in packing.slices if part.stop > part.start]
    alone = [definition(query[:, part], key[:, part], value[:, part], width**-0.5) for part in parts]
    check(found, [torch.cat(both, dim=1) for both in zip(*alone, strict=True)], dtype, query.shape)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([700, 300], [[700, 300]]),
        ([1152, 1152, 40, 9, 1100, 1100], [[1152, 1152], [40, 9], [1152], [1152]]),  # cuDNN alone pads
    ],
)
def test_few_launches_take_packed_sequences(sizes, expected, monkeypatch):
    """The library's entries, played by the definition: short neighbours together, and those of one tidy length."""
    launches = []

    def flash(query, key, value, stops, same_stops, longest, same_longest, dropout, is_causal, debug, *, scale):
        assert stops is same_stops
        assert (longest, dropout, is_causal, debug) == (same_longest, 0.0, True, False)
        packing = Packing.of(stops.diff().numpy(), stops.device)
        assert packing.longest == longest
        launches.append(packing.sizes.tolist())
        out, lse = each_alone(packing, *(x.transpose(0, 1) for x in (query, key, value)), scale)
        return out.transpose(0, 1).contiguous(), lse, None

    def cudnn(query, key, value, bias, with_lse, dropout, is_causal, debug, *, scale):
        assert (bias, with_lse, dropout, is_causal, debug) == (None, True, 0.0, True, False)
        launches.append([query.shape[2]] * len(query))
        found = [definition(*one, scale) for one in zip(query, key, value, strict=True)]
        outs, lses = (torch.stack(part) for part in zip(*found, strict=True))
        return outs.transpose(1, 2).contiguous().transpose(1, 2), lses[..., None], None

    entries = SimpleNamespace(_flash_attention_forward=flash, _scaled_dot_product_cudnn_attention=cudnn)
    monkeypatch.setattr(causal, "_aten", entries)
    monkeypatch.setattr(causal, "_kernel", lambda query, key, value: causal._cudnn)
    packing, query, key, value = packed(sizes, 16, "cpu", torch.float32)
    found = packed_causal_attention(query, key, value, packing, 0.3)
    check(found, each_alone(packing, query, key, value, 0.3), torch.float32, query.shape)
    assert launches == expected
