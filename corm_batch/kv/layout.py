"""Layout: what stands in the pages of each layer. All pages are of as many bytes; entries of a layer that are narrower
than the widest layer's are more a page.

    layer 0  keys 48, values 56 wide   page of 3520 bytes:  16 entries
    layer 1  the same                                       16
    layer 2  keys 24, values 40                             24        a run of its own

Where all layers are alike, as they mostly are, there is one number of entries a page, and one run of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from torch import Tensor

from corm_batch.ops.pages import Column, Pages, page_bytes

Sizes = int | np.ndarray
"""Entries a page, of lists [..., L, K]: one number, or [L, 1]."""


class Layout:
    """How entries lie in pages, layer by layer; a layer is one that has lists.

    Args:
        columns: by layer, what is stored of an entry, see `entry_columns`; layers differ in widths alone.
        page_size: entries of a page in the layer whose entries take most.
        num_scales: how many of the columns, the last ones, are the form of storage's.

    Attributes:
        page_bytes: of every page.
        by_layer: entries a page.
        sizes: the same for arithmetic with lists of all layers.
        runs: neighbouring layers that are alike.
    """

    def __init__(self, columns: Sequence[Sequence[Column]], page_size: int, num_scales: int = 0) -> None:
        self.columns, self.num_scales = [tuple(each) for each in columns], num_scales
        self.page_bytes = max(page_bytes(page_size, each) for each in set(self.columns))
        fitting = {each: _most_entries(each, page_size, self.page_bytes) for each in set(self.columns)}
        self.by_layer = [fitting[each] for each in self.columns]
        same = len(set(self.by_layer)) == 1
        self.sizes: Sizes = self.by_layer[0] if same else np.array(self.by_layer, np.int32)[:, None]
        self.runs: list[slice] = []
        for _, run in groupby(range(len(self.columns)), key=self.columns.__getitem__):
            layers = list(run)
            self.runs.append(slice(layers[0], layers[-1] + 1))

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """Those that are the policy's, in every layer."""
        columns = self.columns[0]
        return columns[5 : len(columns) - self.num_scales]

    def views(self, memory: Tensor) -> list[Pages]:
        """By layer the columns in pages of bytes, [P, page_bytes] uint8."""
        kinds = {
            each: Pages.within(memory, each, size, self.num_scales)
            for each, size in zip(self.columns, self.by_layer, strict=True)
        }
        return [kinds[each] for each in self.columns]

    def most_pages(self, num_entries: float, num_heads: int, more: int = 0) -> int:
        """Whole pages that so many entries in each head of every layer fill, and `more` in each."""
        pages = num_entries // self.sizes + more
        return int(num_heads * (pages.sum() if isinstance(pages, np.ndarray) else len(self.by_layer) * pages))


def _most_entries(columns: Sequence[Column], page_size: int, num_bytes: int) -> int:
    """How many entries of these columns a page of so many bytes takes; `page_size` where as many fill it."""
    if page_bytes(page_size, columns) == num_bytes:
        return page_size
    size = num_bytes // sum(column.num_bytes for column in columns)
    while page_bytes(size, columns) > num_bytes:
        size -= 1
    return size
