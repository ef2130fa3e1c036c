"""Where sequences stand among packed ones, and a block of entries among a sequence's, and which rows see it."""

from __future__ import annotations

import triton
import triton.language as tl

from corm_batch.ops.pages import NEVER

_NEVER = tl.constexpr(NEVER)


@triton.jit
def bounds_of(bounds: tl.tensor | None, s: int, num_sequences: int, total: int) -> tuple[int, int]:
    """Where sequence s begins and how many it has; all of them where there are no bounds."""
    start, count = 0, total
    if bounds is not None:
        start, count = tl.load(bounds + s), tl.load(bounds + num_sequences + s)
    return start, count


@triton.jit
def places(
    bounds: tl.tensor, order: tl.tensor | None, hole: tl.tensor | None, hole_end: tl.tensor, k: int, s: int,
    all_entries: int, start: int, reach: int, BLOCK_N: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """A block's entries in the order of their positions; which there are, and which are not a neighbour's."""
    offset, num_entries = tl.arange(0, BLOCK_N), tl.load(bounds + tl.num_programs(2) + s)
    n = start - reach + offset
    inside = (n >= 0) & (n < num_entries)
    own = inside & (offset >= reach) & (offset < BLOCK_N - reach)
    if order is not None:
        n = tl.load(order + k * all_entries + n, mask=inside, other=0).to(tl.int32)
    if hole is not None:  # what is in it comes last
        older = tl.load(hole + s * tl.num_programs(1) + k)
        width = tl.load(hole_end + s) - older
        n = tl.where(n < older, n, tl.where(n < num_entries - width, n + width, n - (num_entries - width) + older))
    return n + tl.load(bounds + s), inside, own


@triton.jit
def seen_rows(
    birth: tl.tensor, end: tl.tensor, real: tl.tensor, first: tl.tensor, num_rows: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Rows from the first that sees anything of a block to behind the last, and from the first to behind the last that
    see all of it; padding may be seen, too."""
    since, until = tl.min(birth, 0) - first, tl.minimum(tl.max(end, 0) - first, num_rows - 1) + 1
    all_since = tl.max(tl.where(real, birth, 0), 0) - first
    all_until = tl.minimum(tl.min(tl.where(real, end, _NEVER), 0) - first, num_rows - 1) + 1
    return since, until, all_since, all_until
