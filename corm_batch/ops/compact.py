"""Compaction: what no later query may see leaves its list, and the entries behind it move up."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.pages import Lists, Pages


def compact_lists(pages: Pages, lists: Lists, step_S: Tensor) -> Tensor:
    """Remove, in place and in order, the entries of a batch that are gone after its last step.

    Pages that a shorter list no longer needs are the host's to free, and slots behind a list hold whatever they held.

    Args:
        pages: the pool, changed in place.
        lists: where the entries are; `length` is changed in place.
        step_S: int32 last step of each sequence: an entry stays iff position <= step < expiry, or it is shared.

    Returns:
        [S, K] float32 statistic of the removed entries, summed up; 0 for slot -1.
    """
    page_size = pages.size
    lost_SK = torch.zeros(len(lists.slot), lists.length.shape[1], device=step_S.device)
    real = lists.slot >= 0
    slot, step = lists.slot[real], step_S[real, None, None]
    length = lists.length[slot]
    width = -(-int(length.max()) // page_size) if len(slot) else 0
    table, index = lists.table[slot][..., :width].long(), torch.arange(width * page_size, device=length.device)
    stored = index < length[..., None]
    each = (column.index_select(0, table.flatten()) for column in pages[2:5])
    position, expiry, statistic = (column.view(*length.shape, len(index)) for column in each)
    keep = stored & (position <= step) & (expiry > step) | (index < lists.shared[slot][..., None])
    lost_SK[real] = statistic.masked_fill(keep | ~stored, 0.0).sum(dim=-1)
    rank = keep.cumsum(dim=-1) - 1
    rows, heads, source = (keep & (rank < index)).nonzero(as_tuple=True)
    target = rank[rows, heads, source]
    old, new = ((table[rows, heads, one // page_size], one % page_size) for one in (source, target))
    for column in pages.bytes:
        by_entry = column.flatten(1).unflatten(1, (page_size, -1))
        by_entry.index_put_(new, by_entry[old])
    lists.length[slot] = keep.sum(dim=-1, dtype=lists.length.dtype)
    return lost_SK
