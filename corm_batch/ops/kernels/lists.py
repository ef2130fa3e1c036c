"""Where the lists of a decode step are, and how they are split, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def locate(
    row: tl.tensor, table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """The page ids of list `row` = s * K + k and its length; what ends in _s or _k is a stride. -1 has no entries."""
    where, k = tl.load(slot + row // num_kv_heads), row % num_kv_heads
    num_entries = tl.load(length + where * length_s + k * length_k, mask=where >= 0, other=0)
    return table + where * table_s + k * table_k, num_entries


@triton.jit
def place_of(page: tl.tensor, within: tl.tensor, PAGE: tl.constexpr) -> tl.tensor:
    """Where entries, `within` their pages of PAGE bytes, have what a column of single numbers holds of them: all of
    these are 4 bytes. In 64 bits: a pool is larger than 32 tell."""
    return page.to(tl.int64) * (PAGE // 4) + within


@triton.jit
def numbers_of(
    numbers: tl.tensor, page: tl.tensor, within: tl.tensor, WIDTH: tl.constexpr, PAGE: tl.constexpr
) -> tl.tensor:
    """Pointers to the first of WIDTH numbers that a column of keys or values holds of each entry."""
    stride: tl.constexpr = PAGE * 8 // numbers.dtype.element_ty.primitive_bitwidth
    return numbers + (page.to(tl.int64) * stride + within * WIDTH)  # offsets that keys and values may have in common


@triton.jit
def span_of(num_entries: tl.tensor, splits: tl.tensor, BLOCK_N: tl.constexpr) -> tl.tensor:
    """Entries of one split, a multiple of BLOCK_N and never 0: a short list has fewer splits than others."""
    return tl.maximum(tl.cdiv(tl.cdiv(num_entries, splits), BLOCK_N), 1) * BLOCK_N


@triton.jit
def common_of(
    row: tl.tensor, leader: tl.tensor | None, shared: tl.tensor, shared_s: int, shared_k: int, num_rows: int,
    slot: tl.tensor, num_kv_heads: int, C: tl.constexpr, REACH: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Entries at the beginning of list `row` that are seen together with those of its group: whole pages, and none that
    a vote on the list's own may have to look at."""
    common = (row * 0).to(tl.int32)
    if leader is not None:
        s = row // num_kv_heads
        first = tl.load(leader + s)
        joined = (first != s) | (tl.load(leader + s + 1, mask=s + 1 < num_rows, other=-1) == s)
        where = tl.load(slot + first)
        held = tl.load(shared + where * shared_s + row % num_kv_heads * shared_k, mask=joined & (where >= 0), other=0)
        common += tl.maximum(held - REACH, 0) // C * C
    return common
