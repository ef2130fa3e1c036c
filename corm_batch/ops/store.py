"""Storing entries: the kept ones go into pages, lists one behind the other, without asking the host where."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.form import Form
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries, Pages, narrowed, write_pages


def store_entries(
    pages: Pages,
    entries: Entries,
    keep_KN: Tensor,
    packing: Packing,
    own: Tensor,
    own_stops: Tensor,
    fresh: Tensor,
    used: Tensor,
    channels_SKW: Tensor | None = None,
    *,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """Put the kept entries of each head of each sequence, in their order, into pages.

    A sequence's lists take pages head after head: first its own, then those of `fresh` from `used` on, which sequence
    after sequence advances. A host that knows the counts can tell which list got which page; one that does not may look
    at `used` later: more than `fresh` holds means that many pages were missing, and the entries they were for went to
    page 0.

    Args:
        pages: the pool, changed in place; slots behind a list in its last page become 0, so no weight of 0 ever meets
            a NaN there.
        entries: [K, N], in any strides whose last one is 1 for keys and values; no views of `pages`.
        keep_KN: bool, which to store.
        packing: where the sequences' entries stand.
        own: [M] int32 ids of the pages that these lists hold already.
        own_stops: [S + 1] int32: from where to where in `own` those of each sequence stand.
        fresh: [M] int32 ids of further pages.
        used: [1] int32, how many of `fresh` are taken; advanced in place.
        channels_SKW: uint8, the channels of its keys that each list stores, ascending; None for all.
        form: in which entries are stored.

    Returns:
        [S, K] int32 entries stored, [S, K] float32 statistic of those that were not, summed up.
    """
    stops = own_stops.tolist()
    found = [
        _store_one(
            pages,
            _narrow(Entries.of(column[:, part] for column in entries.tensors), channels_SKW, number),
            keep_KN[:, part],
            own[start:stop],
            fresh,
            used,
            form,
        )
        for number, (part, start, stop) in enumerate(zip(packing.slices, stops[:-1], stops[1:], strict=True))
    ]
    counts, lost = (torch.stack(column) for column in zip(*found, strict=True))
    return counts, lost


def _narrow(entries: Entries, channels_SKW: Tensor | None, number: int) -> Entries:
    """Entries [K, N] of this sequence as its lists store them."""
    if channels_SKW is None:
        return entries
    return entries._replace(key=narrowed(entries.key, channels_SKW[number, :, None]))


def _store_one(
    pages: Pages, entries: Entries, keep_KN: Tensor, own: Tensor, fresh: Tensor, used: Tensor, form: Form
) -> tuple[Tensor, Tensor]:
    """`store_entries` of one sequence: [K] and [K]."""
    page_size = pages.size
    count_K = keep_KN.sum(dim=-1)
    num_pages_K = (count_K + page_size - 1) // page_size
    stop_K = num_pages_K.cumsum(dim=0)
    ids = _take(int(num_pages_K.sum()), own, fresh, used)
    last = ids[stop_K[count_K > 0] - 1]
    for column in pages.bytes:
        column.index_fill_(0, last, 0)
    heads, index = keep_KN.nonzero(as_tuple=True)
    rank = (keep_KN.cumsum(dim=-1) - 1)[heads, index]
    kept = entries.map(lambda column: column[heads, index])
    write_pages(pages, ids[(stop_K - num_pages_K)[heads] + rank // page_size], rank % page_size, kept, form)
    return count_K.int(), entries.statistic.masked_fill(keep_KN, 0.0).sum(dim=-1)


def _take(count: int, own: Tensor, fresh: Tensor, used: Tensor) -> Tensor:
    """The first `count` page ids of `own` and what is left of `fresh`, then zeros: [count] int64."""
    num_fresh = max(0, count - len(own))
    start = int(used)
    used += num_fresh
    ids = torch.cat((own[:count], fresh[start : start + num_fresh])).long()
    return torch.nn.functional.pad(ids, (0, count - len(ids)))
