"""Gathering entries: what lists of sequences hold, copied out, with new entries behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.basis import Basis
from corm_batch.ops.form import Form
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries, Pages, read_pages


def gather_entries(
    pages: Pages,
    table_SKP: Tensor,
    length_SK: Tensor,
    born: Entries,
    packing: tuple[Packing, Packing] | None = None,
    channels_SKW: Tensor | None = None,
    *,
    form: Form,
    basis: Basis | None = None,
) -> Entries:
    """The entries of S times K lists and, behind each list's pages, those just born.

    Args:
        pages: the pool.
        table_SKP: page ids of each list, padded with 0; a width of the longest list will do.
        length_SK: int32 entries in each list.
        born: [K, M], in any strides whose last one is 1 for keys and values.
        packing: where those just born, and where all entries, of each sequence stand: what is left of the latter's size
            is for its lists, all of whose pages fit. None: all are of one, and its lists get the table's width.
        channels_SKW: uint8, those of its keys that each list stores, ascending; the others are 0. None: all are stored.
        form, basis: in which those of the lists are stored.

    Returns:
        [K, N], contiguous and no views, keys and values in the type of those just born; N is P * C + M for one
        sequence. Beyond a list's length the position is NEVER, the statistic 0 and the rest whatever the page held.
    """
    held = read_pages(pages, table_SKP, length_SK, form, channels_SKW, born.key.shape[-1], basis)
    held = held._replace(statistic=held.statistic.masked_fill(held.position == NEVER, 0.0))
    num_held, num_born = held.position.shape[-1], born.position.shape[-1]
    newer, every = packing or (Packing.alone(count, born.key.device) for count in (num_born, num_held + num_born))
    widths, parts = every.sizes - newer.sizes, newer.slices

    def joined(old_SKN: Tensor, new_KM: Tensor) -> Tensor:
        each = zip(old_SKN.to(new_KM.dtype), widths.tolist(), parts, strict=True)
        return torch.cat([one for old, width, part in each for one in (old[:, :width], new_KM[:, part])], dim=1)

    return Entries.of(map(joined, held.tensors, born.tensors))
