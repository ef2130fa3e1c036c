"""Masks of tokens on a GPU: reads the bits, and writes no logit but those that they do not allow."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096


def mask_tokens(logits_SV: Tensor, rows_C: Tensor, mask_CW: Tensor) -> None:
    """`ops.mask.mask_tokens`."""
    vocab_size = logits_SV.shape[1]
    _mask_kernel[len(rows_C), triton.cdiv(vocab_size, _TILE)](
        logits_SV, *logits_SV.stride(), rows_C, mask_CW, mask_CW.shape[1], vocab_size, TILE=_TILE, num_warps=4
    )


@triton.jit
def _mask_kernel(
    logits: tl.tensor, logit_s: int, logit_v: int, rows: tl.tensor, masks: tl.tensor, num_words: int, vocab_size: int,
    TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Program: row that has a mask, tile of tokens."""
    place = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    word = tl.load(masks + place * num_words + token // 32, mask=token < vocab_size, other=-1)  # [TILE]
    logits += tl.load(rows + place) * logit_s
    tl.store(logits + token * logit_v, float("-inf"), mask=((word >> (token % 32)) & 1) == 0)
