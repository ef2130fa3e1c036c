"""Append: the entry a decode step brings to every list of its batch, and the values that other layers have of it."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.form import Form
from corm_batch.ops.pages import Entries, Lists, Pages, narrowed, projected, write_pages


def append_entries(pages: Pages, lists: Lists, entries: Entries, *, form: Form) -> None:
    """Put one entry behind every list of the batch; its page is in the table already.

    Args:
        pages: the pool, changed in place.
        lists: `length` grows by one for the slots of the batch, in place.
        entries: key and value [S, K, D], the others [S, K]; rows of slot -1 go nowhere.
        form: in which entries are stored.
    """
    rows = (lists.slot >= 0).nonzero()[:, 0]
    slot, page_size = lists.slot[rows], pages.size
    index = lists.length[slot].long()
    head = torch.arange(index.shape[1], device=index.device)
    page = lists.table[slot[:, None], head, index // page_size]
    own = entries.map(lambda column: column[rows])
    if lists.channels is not None:
        own = own._replace(key=narrowed(own.key, lists.channels[slot]))
    flat = projected(own, lists.basis, dim=1).map(lambda column: column.flatten(0, 1))
    write_pages(pages, page.long().flatten(), (index % page_size).flatten(), flat, form)
    lists.length.index_copy_(0, slot, (index + 1).to(lists.length.dtype))


def append_values(pages: Pages, lists: Lists, value_SKD: Tensor, *, form: Form) -> None:
    """Put a value into the newest entry of every list of the batch, in the place of what is there.

    Args:
        pages: the pool, changed in place; its values, and their scales, are those of the layer that has them.
        lists: where the entries are; none is empty.
        value_SKD: one a list; rows of slot -1 go nowhere.
        form: in which entries are stored.
    """
    rows = (lists.slot >= 0).nonzero()[:, 0]
    slot, value = lists.slot[rows], value_SKD[rows]
    index = lists.length[slot].long() - 1
    head = torch.arange(index.shape[1], device=index.device)
    page, within = lists.table[slot[:, None], head, index // pages.size].long(), index % pages.size
    stored = form.encode(value, value)
    half = len(stored.scales) // 2
    pages.value.index_put_((page, within), stored.value.to(pages.value.dtype))
    for column, new in zip(pages.scales[half:], stored.scales[half:], strict=True):
        column.index_put_((page, within), new.to(column.dtype))
