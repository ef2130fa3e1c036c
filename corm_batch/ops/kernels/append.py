"""Append on a GPU: one program an entry, one launch for every list of the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from corm_batch.ops.pages import Entries, Lists, Pages


def append_entries(pages: Pages, lists: Lists, entries: Entries) -> None:
    """As `ops.append.append_entries`; nothing waits for the device, and a CUDA graph may hold it.

    Args:
        pages: the pool, contiguous, changed in place.
        lists: as there; the table's rows are contiguous.
        entries: as there, with any strides.
    """
    (num_sequences, num_kv_heads), (_, page_size, head_dim) = entries.position.shape, pages.key.shape
    _append[(num_sequences * num_kv_heads,)](
        *pages, *lists, *entries,
        *lists.table.stride()[:2], *lists.length.stride(), *entries.key.stride(), *entries.value.stride(),
        *entries.position.stride(), *entries.expiry.stride(), *entries.mass.stride(), num_kv_heads,
        C=page_size, D=head_dim, BLOCK_D=triton.next_power_of_2(head_dim), num_warps=1,
    )  # fmt: skip


@triton.jit
def _append(
    key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor, mass: tl.tensor,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    new_key: tl.tensor, new_value: tl.tensor, new_position: tl.tensor, new_expiry: tl.tensor, new_mass: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int,
    key_s: int, key_k: int, key_d: int, value_s: int, value_k: int, value_d: int,
    position_s: int, position_k: int, expiry_s: int, expiry_k: int, mass_s: int, mass_k: int, num_kv_heads: int,
    C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """One new entry, of row s and head k; what ends in _s, _k or _d is a stride."""
    s, k = (tl.program_id(0) // num_kv_heads).to(tl.int64), tl.program_id(0) % num_kv_heads
    where = tl.load(slot + s)
    if where < 0:
        return
    index = tl.load(length + where * length_s + k * length_k)
    page = tl.load(table + where * table_s + k * table_k + index // C).to(tl.int64)
    place = page * C + index % C
    d = tl.arange(0, BLOCK_D)
    inside = d < D
    new = tl.load(new_key + s * key_s + k * key_k + d * key_d, mask=inside)
    tl.store(key + place * D + d, new, mask=inside)
    new = tl.load(new_value + s * value_s + k * value_k + d * value_d, mask=inside)
    tl.store(value + place * D + d, new, mask=inside)
    tl.store(position + place, tl.load(new_position + s * position_s + k * position_k))
    tl.store(expiry + place, tl.load(new_expiry + s * expiry_s + k * expiry_k))
    tl.store(mass + place, tl.load(new_mass + s * mass_s + k * mass_k))
    tl.debug_barrier()  # no thread may still want the old length
    tl.store(length + where * length_s + k * length_k, index + 1)
