"""Pages: the tensors that hold every cached entry, and the three ways to touch them: read, write, extend.

    page p, slot c  ->  key[p, c], value[p, c]   the entry itself, keys with the rotary position they were born with
                        position[p, c]           1-based position of its token
                        expiry[p, c]             last step at which a query may see it
                        mass[p, c]               attention it received since it was last found important

Page 0 is never handed out: table padding points at it, so reads of padding are harmless and writes to it are lost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int32).max
"""As an expiry: the entry is never evicted. As a position: there is no entry here, no query sees it."""


class Pages(NamedTuple):
    """The pool's tensors; see the module's drawing."""

    key: Tensor  # [P, C, D]
    value: Tensor  # [P, C, D]
    position: Tensor  # [P, C] int32
    expiry: Tensor  # [P, C] int32
    mass: Tensor  # [P, C] float32


class Entries(NamedTuple):
    """Entries taken out of their pages, or not yet in any; padding has position NEVER."""

    key: Tensor  # [..., K, N, D]
    value: Tensor  # [..., K, N, D]
    position: Tensor  # [..., K, N] int32
    expiry: Tensor  # [..., K, N] int32
    mass: Tensor  # [..., K, N] float32


class Lists(NamedTuple):
    """Where one layer keeps its entries: a list of pages for every slot and kv head.

    A batch names its sequences by slot; slot -1 is no sequence at all (a batch padded to a fixed size): nothing is read
    or written for it and what comes out of its row means nothing. A list's entries stand in the order of their
    positions.
    """

    table: Tensor  # [slots, K, P] int32 page ids, padded with 0
    length: Tensor  # [slots, K] int32 entries stored
    slot: Tensor  # [S] int64 the sequences of the batch


def read_pages(pages: Pages, table: Tensor, length: Tensor) -> Entries:
    """Copy lists of pages out as padded, contiguous entries.

    Args:
        pages: the pool.
        table: [..., K, P] int, page ids of each list, padded with 0.
        length: [..., K] int, entries in each list.

    Returns:
        Entries with N = P * C; beyond `length` the position is NEVER and the rest is whatever the page held.
    """
    lead, num_slots = table.shape[:-1], table.shape[-1] * pages.position.shape[1]
    flat = table.reshape(-1)
    key, value = (column.index_select(0, flat).view(*lead, num_slots, column.shape[-1]) for column in pages[:2])
    position, expiry, mass = (column.index_select(0, flat).view(*lead, num_slots) for column in pages[2:])
    index = torch.arange(num_slots, device=table.device)
    return Entries(key, value, position.masked_fill(index >= length[..., None], NEVER), expiry, mass)


def write_pages(pages: Pages, page: Tensor, slot: Tensor, entries: Entries) -> None:
    """Put M entries into their places.

    Args:
        pages: the pool, changed in place.
        page, slot: [M] int64, where each entry goes.
        entries: key and value [M, D], the others [M].
    """
    for column, new in zip(pages, entries, strict=True):
        column.index_put_((page, slot), new.to(column.dtype))


def update_pages(pages: Pages, table: Tensor, expiry: Tensor, mass: Tensor) -> None:
    """Write back what a step learned of whole lists of pages.

    Args:
        pages: the pool, changed in place.
        table: [..., P] int64, as given to `read_pages`.
        expiry, mass: [..., N] with N = P * C.
    """
    flat, page_size = table.reshape(-1), pages.position.shape[1]
    pages.expiry.index_copy_(0, flat, expiry.reshape(-1, page_size))
    pages.mass.index_copy_(0, flat, mass.reshape(-1, page_size))
