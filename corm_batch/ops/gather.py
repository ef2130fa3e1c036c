"""Gathering entries: what a sequence's lists hold, copied out, with new entries behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.form import Form
from corm_batch.ops.pages import Entries, Pages, read_pages


def gather_entries(pages: Pages, table_KP: Tensor, length_K: Tensor, born: Entries, *, form: Form) -> Entries:
    """The entries of K lists and, behind each list's pages, those just born.

    Args:
        pages: the pool.
        table_KP: int32 page ids of each list, padded with 0; a width of the lists' longest will do.
        length_K: int32 entries in each list.
        born: [K, N], in any strides whose last one is 1 for keys and values.
        form: in which those of the lists are stored.

    Returns:
        [K, P * C + N], contiguous and no views, keys and values in the type of those just born; beyond a list's length
        the position is NEVER and the rest is whatever the page held.
    """
    held = read_pages(pages, table_KP, length_K, form)
    both = zip(held.tensors, born.tensors, strict=True)
    return Entries.of(torch.cat((old.to(new.dtype), new), dim=1) for old, new in both)
