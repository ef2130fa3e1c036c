"""Layout: what stands in the pages of each layer. All pages are of as many bytes; entries of a layer that are narrower
than the widest layer's are more a page.

    layer 0  keys 48, values 56 wide   page of 3520 bytes:  16 entries
    layer 1  the same                                       16
    layer 2  keys 24, values 40                             24        a run of its own

Where all layers are alike, as they mostly are, there is one number of entries a page, and one run of layers.

An entry may have further values beside its own, each with scales of its own: those of layers that have its key here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from torch import Tensor

from corm_batch.ops.pages import Column, Pages, columns_within, page_bytes

Sizes = int | np.ndarray
"""Entries a page, of lists [..., L, K]: one number, or [L, 1]."""


class Layout:
    """How entries lie in pages, layer by layer; a layer is one that has lists.

    Args:
        columns: by layer, what is stored of an entry, see `entry_columns`; layers differ in widths alone.
        page_size: entries of a page in the layer whose entries take most.
        num_scales: how many of the columns, the last ones, are the form of storage's.
        further: by layer, how many values an entry has beside its own; None for none.

    Attributes:
        page_bytes: of every page.
        by_layer: entries a page.
        sizes: the same for arithmetic with lists of all layers.
        weights: [L] float, how much of a page an entry takes, where it takes least 1.
        runs: neighbouring layers that are alike.
    """

    def __init__(
        self, columns: Sequence[Sequence[Column]], page_size: int, num_scales: int = 0,
        further: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.columns, self.num_scales = [tuple(each) for each in columns], num_scales
        counts = further or [0] * len(self.columns)
        self._stored = [
            (*each, *count * (each[1], *each[len(each) - num_scales // 2 :][: num_scales // 2]))
            for each, count in zip(self.columns, counts, strict=True)
        ]
        self.page_bytes = max(page_bytes(page_size, each) for each in set(self._stored))
        fitting = {each: _most_entries(each, page_size, self.page_bytes) for each in set(self._stored)}
        self.by_layer = [fitting[each] for each in self._stored]
        self.weights = max(self.by_layer) / np.array(self.by_layer)
        same = len(set(self.by_layer)) == 1
        self.sizes: Sizes = self.by_layer[0] if same else np.array(self.by_layer, np.int32)[:, None]
        self.runs: list[slice] = []
        for _, run in groupby(range(len(self.columns)), key=self._stored.__getitem__):
            layers = list(run)
            self.runs.append(slice(layers[0], layers[-1] + 1))

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """Those that are the policy's, in every layer."""
        columns = self.columns[0]
        return columns[5 : len(columns) - self.num_scales]

    def views(self, memory: Tensor) -> list[Pages]:
        """By layer the columns in pages of bytes, [P, page_bytes] uint8; scales of further values behind the others."""
        kinds = {}
        for columns, stored, size in zip(self.columns, self._stored, self.by_layer, strict=True):
            tensors, num_own = columns_within(memory, stored, size), len(columns)
            pages, step = Pages.of(tensors[:num_own], self.num_scales), 1 + self.num_scales // 2
            values, more = tensors[num_own::step], (tensors[at] for at in range(num_own, len(tensors)))
            scales = [one for at, one in enumerate(more) if at % step]
            kinds[stored] = pages._replace(scales=(*pages.scales, *scales), further=tuple(values))
        return [kinds[each] for each in self._stored]

    def most_pages(self, num_entries: float, num_heads: int, more: int = 0) -> int:
        """Whole pages that so many entries in each head of every layer fill, and `more` in each."""
        pages = num_entries // self.sizes + more
        return int(num_heads * (pages.sum() if isinstance(pages, np.ndarray) else len(self.by_layer) * pages))


def valued(pages: Pages, number: int) -> Pages:
    """Pages as one of the layers has them whose values are there: with its values, and their scales, alone.

    Args:
        pages: as `Layout.views` has them.
        number: 0 of the layer that has the keys, or of which of the others, from 1 on.
    """
    half = len(pages.scales) // (2 + len(pages.further))
    value = pages.further[number - 1] if number else pages.value
    theirs = pages.scales[(1 + number) * half : (2 + number) * half]
    return pages._replace(value=value, scales=(*pages.scales[:half], *theirs), further=())


def _most_entries(columns: Sequence[Column], page_size: int, num_bytes: int) -> int:
    """How many entries of these columns a page of so many bytes takes; `page_size` where as many fill it."""
    if page_bytes(page_size, columns) == num_bytes:
        return page_size
    size = num_bytes // sum(column.num_bytes for column in columns)
    while page_bytes(size, columns) > num_bytes:
        size -= 1
    return size
