"""Masks of tokens, a bit each, on logits: what a row's mask does not allow cannot be chosen."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_tokens(logits_SV: Tensor, rows_C: Tensor, mask_CW: Tensor) -> None:
    """Put -inf where a row's mask does not allow a token.

    Args:
        logits_SV: float32, changed in place.
        rows_C: int64, the rows that have a mask, each of them once.
        mask_CW: int32, 32 W >= V; bit t % 32 of word t // 32 says whether token t may come.
    """
    bits = torch.arange(32, dtype=torch.int32, device=mask_CW.device)
    allowed_CV = ((mask_CW[:, :, None] >> bits) & 1).bool().flatten(1)[:, : logits_SV.shape[1]]
    logits_SV[rows_C] = logits_SV[rows_C].masked_fill(~allowed_CV, -torch.inf)
