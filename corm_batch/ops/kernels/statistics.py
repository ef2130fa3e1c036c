"""A statistic's steps as kernels take them, from the numbers of `ops.statistics`: one function a step, for all."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def joined(
    before: tl.tensor, weight: tl.tensor, G: tl.constexpr, POWER: tl.constexpr, HEADS: tl.constexpr
) -> tl.tensor:
    """Shares of the weights of one more of G query heads, with those before: 0 before the first.

    Heads are averaged by `averaged`, once they are all in.
    """
    share = weight
    for _ in tl.static_range(POWER - 1):
        share *= weight
    if G > 1:
        share = tl.maximum(before, share) if HEADS == "max" else before + share
    return share


@triton.jit
def averaged(found: tl.tensor, G: tl.constexpr, HEADS: tl.constexpr) -> tl.tensor:
    """What was joined of G heads."""
    return found if HEADS == "max" or G == 1 else found / G


@triton.jit
def gathered(before: tl.tensor, found: tl.tensor, ROWS: tl.constexpr) -> tl.tensor:
    """What was gathered with one row, or rows gathered already, more."""
    if ROWS == "last":
        return found
    return tl.maximum(before, found) if ROWS == "max" else before + found
