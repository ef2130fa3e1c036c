"""Quantised numbers against literal loops; the definition of a scaled product; what a GPU makes of it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from corm_batch.ops.scaled import (
    FP8,
    block_product,
    dequantize,
    has_block_product,
    has_scaled_products,
    quantize_blocks,
    quantize_rows,
    row_product,
    scaled_linear,
    scaled_product,
)
from tests.ops.devices import KERNEL_DEVICES

ROWS = [(1, 16, 16), (3, 48, 32), (7, 160, 144), (130, 272, 400)]
BLOCKS = [(1, 128, 128), (3, 256, 384), (5, 96, 144), (7, 272, 400)]


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def block_scales(weight):
    """A scale for every 128 by 128, and the numbers: one block after the other."""
    height, width = (-(-size // 128) for size in weight.shape)
    scales, numbers = torch.empty(height, width), torch.empty(weight.shape, dtype=FP8)
    for i in range(height):
        for j in range(width):
            part = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            scales[i, j] = weight[part].abs().max() / 448
            numbers[part] = (weight[part] / scales[i, j]).to(FP8)
    return numbers, scales


def distance(found, expected):
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_row_has_the_scale_of_its_largest_value(dtype):
    value = draw(2, 3, 20, dtype=dtype) * torch.tensor([1.0, 100.0, 0.01]).to(dtype)[:, None]
    value[1, 2] = 0
    number, scale = quantize_rows(value)
    assert number.dtype == FP8
    assert scale.dtype == torch.float32
    for i in range(2):
        for j in range(3):
            own = value[i, j].float()
            if (i, j) == (1, 2):
                assert not number[i, j].float().any()
                continue
            assert scale[i, j].item() == pytest.approx(own.abs().max().item() / 448)
            assert number[i, j].float().abs().max() == 448
            assert ((number[i, j].float() * scale[i, j] - own).abs() <= own.abs() / 16 + scale[i, j] / 512).all()


def test_a_scale_that_was_measured_holds_for_all_rows_and_the_rest_is_cut_off():
    value = torch.tensor([[1.0, -3.0, 448.0], [500.0, -2000.0, 0.0]])
    number, scale = quantize_rows(value, torch.tensor([2.0]))
    assert scale.tolist() == [[2.0], [2.0]]
    assert number.float().tolist() == [[0.5, -1.5, 224.0], [256.0, -448.0, 0.0]]


@pytest.mark.parametrize("width", [128, 100, 300])
def test_blocks_of_a_row_are_rows_of_their_own(width):
    value = draw(2, 5, width) * torch.linspace(0.1, 10, width)
    number, scale = quantize_blocks(value)
    assert number.shape == value.shape
    for start in range(0, width, 128):
        part = slice(start, start + 128)
        expected, own = quantize_rows(value[..., part])
        assert torch.equal(number[..., part].float(), expected.float())
        assert torch.equal(scale[..., start // 128 : start // 128 + 1], own)


@pytest.mark.parametrize(("rows", "width", "to"), ROWS)
def test_the_product_of_rows_is_that_of_their_values(rows, width, to):
    number, scale = quantize_rows(draw(rows, width))
    weight, weight_scale = quantize_rows(draw(to, width, seed=1))
    expected = torch.zeros(rows, to)
    for k in range(width):
        expected += (number[:, k : k + 1].float() * scale) * (weight[:, k].float() * weight_scale[:, 0])
    assert distance(scaled_product(number, scale, weight, weight_scale), expected) < 1e-5


@pytest.mark.parametrize(("rows", "width", "to"), BLOCKS)
def test_the_product_of_blocks_is_that_of_their_values(rows, width, to):
    number, scale = quantize_blocks(draw(rows, width))
    weight, weight_scale = block_scales(draw(to, width, seed=1))
    values = torch.stack([weight[:, k].float() * weight_scale[torch.arange(to) // 128, k // 128] for k in range(width)])
    inputs = torch.stack([number[:, k].float() * scale[:, k // 128] for k in range(width)], dim=1)
    assert torch.equal(dequantize(weight, weight_scale), values.t())
    assert distance(scaled_product(number, scale, weight, weight_scale), inputs @ values) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (4,), (1, 1), (2, 0)])
def test_a_linear_layer_is_close_to_the_one_it_stands_for(dtype, shape):
    value, weight = draw(*shape, 256, dtype=dtype), draw(144, 256, seed=1)
    for arguments in (quantize_rows(weight), block_scales(weight)):
        out = scaled_linear(value, *arguments)
        assert out.dtype == dtype
        assert out.shape == (*shape, 144)
        if out.numel():
            assert distance(out, value.float() @ weight.t()) < 0.05
    static = scaled_linear(value, *quantize_rows(weight), torch.tensor([4 / 448]))
    assert static.numel() == 0 or distance(static, value.float() @ weight.t()) < 0.05


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("shape", [(3, 16), (1, 5, 48), (2, 3, 130), (1, 1), (0, 16), (7, 640), (33, 14336)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_of_rows_gives_the_numbers_of_the_definition(dtype, shape, device):
    from corm_batch.ops.kernels import scaled

    both = draw(*shape[:-1], 2 * shape[-1], dtype=dtype).to(device) * 3
    gate, up = both.chunk(2, dim=-1)  # as parts of one product, whose rows lie apart
    if up.numel():
        up.view(-1, shape[-1])[0] = 0
    for value, (number, scale) in (
        (up.double(), scaled.measured_rows(up)),
        (silu(gate.double()) * up.double(), scaled.gated_rows(gate, up)),
        (silu(gate.double()) * up.double(), scaled.gated_rows(gate.contiguous(), up)),
    ):
        assert (number.dtype, number.shape) == (FP8, up.shape)
        torch.testing.assert_close(scale, quantize_rows(value)[1], rtol=1e-5, atol=0)
        assert ((number.double() * scale - value).abs() <= value.abs() / 15 + scale / 500).all()


def test_a_machine_without_a_gpu_does_without_one():
    cpu = torch.device("cpu")
    assert has_scaled_products(cpu)
    assert has_block_product(*block_scales(draw(128, 128)))


def test_an_old_gpu_has_no_such_products(monkeypatch):
    for capability, expected in (((8, 6), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert has_scaled_products(torch.device("cuda")) == expected


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "width", "to"), [*ROWS, (2, 4096, 1024), (424, 4096, 14336), (1000, 14336, 4096)])
def test_a_gpu_multiplies_rows_as_defined(rows, width, to):
    arguments = *quantize_rows(draw(rows, width)), *quantize_rows(draw(to, width, seed=1))
    expected = scaled_product(*arguments)
    found = row_product(*(argument.cuda() for argument in arguments)).cpu()
    assert distance(found, expected) < 5e-3


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "width", "to"), [(1, 512, 512), (6, 4096, 1024), (33, 4096, 14336), (400, 512, 4096)])
def test_a_gpu_multiplies_blocks_as_defined(rows, width, to):
    number, scale = quantize_blocks(draw(rows, width))
    weight, weight_scale = block_scales(draw(to, width, seed=1))
    if not has_block_product(weight.cuda(), weight_scale.cuda()):
        pytest.skip("no product of blocks here: such weights run in the model's dtype")
    found = block_product(number.cuda(), scale.cuda(), weight.cuda(), weight_scale.cuda()).cpu()
    assert distance(found, scaled_product(number, scale, weight, weight_scale)) < 5e-3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_quantises_as_defined(dtype):
    """A value half way between two numbers may go to either: a GPU divides by 448 in another way."""
    value = draw(5, 272, dtype=dtype)
    for quantize in (quantize_rows, quantize_blocks):
        (number, scale), (expected, own) = ([part.cpu() for part in quantize(value.cuda())], quantize(value))
        assert torch.allclose(scale, own, rtol=1e-6, atol=0)
        ours, theirs = number.float(), expected.float()
        assert ((ours - theirs).abs() <= torch.maximum(ours.abs(), theirs.abs()) / 8 + 2**-9).all()
        assert (ours != theirs).float().mean() < 0.02
