"""Append on a GPU: one program an entry, one launch for every list of the batch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.form import Form
from corm_batch.ops.kernels.lists import numbers_of, place_of
from corm_batch.ops.kernels.strides import Strides, own_strides, strides
from corm_batch.ops.pages import Entries, Lists, Pages, narrowed, projected


def append_entries(pages: Pages, lists: Lists, entries: Entries, *, form: Form) -> None:
    """As `ops.append.append_entries`; nothing waits for the device, and a CUDA graph may hold it.

    Args:
        pages: the pool, changed in place.
        lists: as there; the table's rows are contiguous.
        entries: as there, in any strides whose last one is 1 for keys and values.
        form: as there.
    """
    num_sequences, num_kv_heads = entries.position.shape
    if lists.channels is not None:
        key = narrowed(entries.key, lists.channels[lists.slot.clamp(min=0)])
        entries, lists = entries._replace(key=key), lists._replace(channels=None)
    if lists.basis is not None:
        entries, lists = projected(entries, lists.basis, dim=1), lists._replace(basis=None)
    key_width, value_width = entries.key.shape[-1], entries.value.shape[-1]
    _append[(num_sequences * num_kv_heads,)](
        pages, lists, entries, strides(entries, 0), strides(entries, 1),
        own_strides(entries, 0), own_strides(entries, 1),
        *lists.table.stride()[:2], *lists.length.stride(), num_kv_heads,
        C=pages.size, PAGE=pages.stride, KEY=key_width, VALUE=value_width, KEYS=pages.key.shape[-1],
        VALUES=pages.value.shape[-1], BLOCK_KEY=triton.next_power_of_2(key_width),
        BLOCK_VALUE=triton.next_power_of_2(value_width), SAVE=form.kernels().save, num_warps=1,
    )  # fmt: skip


@triton.jit
def _append(
    pages: Pages, lists: Lists, new: Entries, stride_s: Strides, stride_k: Strides,
    own_s: tl.tuple, own_k: tl.tuple,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    C: tl.constexpr, PAGE: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, KEYS: tl.constexpr,
    VALUES: tl.constexpr, BLOCK_KEY: tl.constexpr, BLOCK_VALUE: tl.constexpr, SAVE: tl.constexpr,
) -> None:  # fmt: skip
    """One new entry, of row s and head k, which becomes KEYS and VALUES numbers; what ends in _s or _k is a stride."""
    s, k = (tl.program_id(0) // num_kv_heads).to(tl.int64), tl.program_id(0) % num_kv_heads
    slot = tl.load(lists.slot + s)
    if slot < 0:
        return
    length_at = lists.length + slot * length_s + k * length_k
    index = tl.load(length_at)
    page, within = tl.load(lists.table + slot * table_s + k * table_k + index // C), index % C
    place, one = place_of(page, within, PAGE), tl.arange(0, 1)  # a tile of one entry
    there = place + one
    w, d = tl.arange(0, BLOCK_KEY)[None, :], tl.arange(0, BLOCK_VALUE)[None, :]
    key = tl.load(new.key + s * stride_s.key + k * stride_k.key + w, mask=w < KEY, other=0.0)  # [1, KEY]
    keys = numbers_of(pages.key, page, within, KEYS, PAGE) + one
    SAVE(key, keys, pages.scales, 0, there, there >= 0, KEY, BLOCK_KEY)
    value = tl.load(new.value + s * stride_s.value + k * stride_k.value + d, mask=d < VALUE, other=0.0)  # [1, VALUE]
    values = numbers_of(pages.value, page, within, VALUES, PAGE) + one
    SAVE(value, values, pages.scales, 1, there, there >= 0, VALUE, BLOCK_VALUE)
    tl.store(pages.position + place, tl.load(new.position + s * stride_s.position + k * stride_k.position))
    tl.store(pages.expiry + place, tl.load(new.expiry + s * stride_s.expiry + k * stride_k.expiry))
    tl.store(pages.statistic + place, tl.load(new.statistic + s * stride_s.statistic + k * stride_k.statistic))
    for i in tl.static_range(len(pages.own)):
        tl.store(pages.own[i] + place, tl.load(new.own[i] + s * own_s[i] + k * own_k[i]))
    tl.debug_barrier()  # no thread may still want the old length
    tl.store(length_at, index + 1)


def append_values(pages: Pages, lists: Lists, value_SKD: Tensor, *, form: Form) -> None:
    """As `ops.append.append_values`; nothing waits for the device, and a CUDA graph may hold it.

    Args:
        pages, lists, form: as there; the table's rows are contiguous.
        value_SKD: as there, in any strides whose last one is 1.
    """
    num_sequences, num_kv_heads, width = value_SKD.shape
    _put_value[(num_sequences * num_kv_heads,)](
        pages.value, pages.scales, lists, value_SKD, *value_SKD.stride()[:2], *lists.table.stride()[:2],
        *lists.length.stride(), num_kv_heads, C=pages.size, PAGE=pages.stride, VALUE=width,
        VALUES=pages.value.shape[-1], BLOCK=triton.next_power_of_2(width), SAVE=form.kernels().save, num_warps=1,
    )  # fmt: skip


@triton.jit
def _put_value(
    numbers: tl.tensor, scales: tl.tuple, lists: Lists, new: tl.tensor, new_s: int, new_k: int,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    C: tl.constexpr, PAGE: tl.constexpr, VALUE: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr,
    SAVE: tl.constexpr,
) -> None:  # fmt: skip
    """The value of row s and head k, which becomes VALUES numbers; what ends in _s or _k is a stride."""
    s, k = (tl.program_id(0) // num_kv_heads).to(tl.int64), tl.program_id(0) % num_kv_heads
    slot = tl.load(lists.slot + s)
    if slot < 0:
        return
    index = tl.load(lists.length + slot * length_s + k * length_k) - 1
    page, within = tl.load(lists.table + slot * table_s + k * table_k + index // C), index % C
    one, d = tl.arange(0, 1), tl.arange(0, BLOCK)[None, :]  # a tile of one entry
    there = place_of(page, within, PAGE) + one
    value = tl.load(new + s * new_s + k * new_k + d, mask=d < VALUE, other=0.0)  # [1, VALUE]
    SAVE(value, numbers_of(numbers, page, within, VALUES, PAGE) + one, scales, 1, there, there >= 0, VALUE, BLOCK)
