"""The likeliest token of a row on a GPU: logits are read once, as they are, tile by tile on all of its processors."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096


def likeliest_tokens(logits_SV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.likeliest.likeliest_tokens`."""
    (num_rows, vocab_size), device = logits_SV.shape, logits_SV.device
    tiles = triton.cdiv(vocab_size, _TILE)
    part_token = torch.empty(num_rows, tiles, dtype=torch.int32, device=device)
    part_top, part_sum = torch.empty(2, num_rows, tiles, device=device)
    token = torch.empty(num_rows, dtype=torch.int64, device=device)
    top, total = torch.empty(2, num_rows, device=device)
    if num_rows:
        _tile_kernel[num_rows, tiles](
            logits_SV, *logits_SV.stride(), vocab_size, part_token, part_top, part_sum, TILE=_TILE, num_warps=8
        )
        size = triton.next_power_of_2(tiles)
        _row_kernel[num_rows,](part_token, part_top, part_sum, tiles, token, top, total, SIZE=size, num_warps=1)
    return token, top, total


@triton.jit
def _tile_kernel(
    logits: tl.tensor, logit_s: int, logit_v: int, vocab_size: int,
    part_token: tl.tensor, part_top: tl.tensor, part_sum: tl.tensor, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Program: row, tile of its tokens."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = tile * TILE + tl.arange(0, TILE)
    there = token < vocab_size
    logit = tl.load(logits + row * logit_s + token.to(tl.int64) * logit_v, mask=there, other=float("-inf"))
    logit = logit.to(tl.float32)
    top = tl.max(logit, axis=0)
    best = tl.min(tl.where((logit == top) & there, token, vocab_size - 1), axis=0)
    base = tl.where(top == float("-inf"), 0.0, top)
    part = row * tl.num_programs(1) + tile
    tl.store(part_token + part, best)
    tl.store(part_top + part, top)
    tl.store(part_sum + part, tl.sum(tl.exp(logit - base), axis=0))  # NaN of a NaN, and of +inf less itself


@triton.jit
def _row_kernel(
    part_token: tl.tensor, part_top: tl.tensor, part_sum: tl.tensor, tiles: int,
    token: tl.tensor, top: tl.tensor, total: tl.tensor, SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """Program: row; puts its tiles together."""
    row, tile = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE)
    there = tile < tiles
    tops = tl.load(part_top + row * tiles + tile, mask=there, other=float("-inf"))
    tokens = tl.load(part_token + row * tiles + tile, mask=there, other=0)
    sums = tl.load(part_sum + row * tiles + tile, mask=there, other=0.0)
    highest = tl.max(tops, axis=0)
    first = tl.min(tl.where((tops == highest) & there, tile, SIZE), axis=0)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    tl.store(token + row, tl.max(tl.where(tile == first, tokens, 0), axis=0).to(tl.int64))
    tl.store(top + row, highest)
    sum_of_all = tl.sum(sums * tl.exp(tops - base), axis=0)
    tl.store(total + row, tl.where(sum_of_all == 0.0, 0.0, base + tl.log(sum_of_all)))
