"""Gathering entries on a GPU: one kernel copies lists of pages, and what is born behind them, column by column."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.kernels.store import TILE_ELEMENTS, Strides
from corm_batch.ops.pages import NEVER, Entries, Pages

_NEVER = tl.constexpr(NEVER)


def gather_entries(pages: Pages, table_KP: Tensor, length_K: Tensor, born: Entries) -> Entries:
    """`ops.gather.gather_entries` for pages whose columns are contiguous and a table whose rows are."""
    (num_heads, num_pages), num_born = table_KP.shape, born.position.shape[1]
    page_size, head_dim = pages.key.shape[1:]
    num_held = num_pages * page_size
    shape = num_heads, num_held + num_born
    gathered = Entries(
        *(torch.empty(*shape, head_dim, dtype=column.dtype, device=column.device) for column in pages[:2]),
        *(torch.empty(shape, dtype=column.dtype, device=column.device) for column in pages[2:]),
    )
    padded_dim = triton.next_power_of_2(head_dim)
    tile = max(16, TILE_ELEMENTS // padded_dim)
    _gather_kernel[(triton.cdiv(shape[1], tile), num_heads)](
        pages, born, Strides(*(column.stride(0) for column in born)), Strides(*(column.stride(1) for column in born)),
        gathered, table_KP, table_KP.stride(0), length_K, num_held, num_born,
        D=head_dim, PADDED_D=padded_dim, C=page_size, TILE=tile, num_warps=4,
    )  # fmt: skip
    return gathered


@triton.jit(do_not_specialize=["table_stride", "num_held", "num_born"],
            do_not_specialize_on_alignment=["table", "lengths"])  # fmt: skip
def _gather_kernel(
    pages: Pages, born: Entries, head_stride: Strides, entry_stride: Strides, gathered: Entries,
    table: tl.tensor, table_stride: int, lengths: tl.tensor, num_held: int, num_born: int,
    D: tl.constexpr, PADDED_D: tl.constexpr, C: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of a head; programs: tile, head."""
    index, head = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1).to(tl.int64)
    total = num_held + num_born
    held, inside = index < num_held, index < total
    new = inside & (index >= num_held)
    page = tl.load(table + head * table_stride + index // C, mask=held, other=0).to(tl.int64)
    place, row, to = page * C + index % C, (index - num_held).to(tl.int64), head * total + index
    column = tl.arange(0, PADDED_D)[None, :]
    narrow = column < D
    for source, fresh, target, by_head, by_entry in (
        (pages.key, born.key, gathered.key, head_stride.key, entry_stride.key),
        (pages.value, born.value, gathered.value, head_stride.value, entry_stride.value),
    ):
        old = tl.load(source + place[:, None] * D + column, mask=held[:, None] & narrow, other=0.0)
        at = head * by_head + row[:, None] * by_entry + column
        x = tl.where(held[:, None], old, tl.load(fresh + at, mask=new[:, None] & narrow, other=0.0))
        tl.store(target + to[:, None] * D + column, x, mask=inside[:, None] & narrow)
    live = held & (index < tl.load(lengths + head))
    was = tl.load(pages.position + place, mask=live, other=_NEVER)
    born_at = tl.load(born.position + head * head_stride.position + row * entry_stride.position, mask=new)
    tl.store(gathered.position + to, tl.where(held, was, born_at), mask=inside)
    ended = tl.load(pages.expiry + place, mask=held)
    ends = tl.load(born.expiry + head * head_stride.expiry + row * entry_stride.expiry, mask=new)
    tl.store(gathered.expiry + to, tl.where(held, ended, ends), mask=inside)
    got = tl.load(pages.mass + place, mask=held)
    gets = tl.load(born.mass + head * head_stride.mass + row * entry_stride.mass, mask=new)
    tl.store(gathered.mass + to, tl.where(held, got, gets), mask=inside)
