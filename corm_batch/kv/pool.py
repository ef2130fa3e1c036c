"""PagePool: the tensors every entry of every document lives in, and who may use which page. Nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from corm_batch.errors import OutOfPages
from corm_batch.ops.pages import Column, Pages


def page_bytes(page_size: int, columns: Iterable[Column]) -> int:
    """Bytes of one page of entries that have these columns."""
    return page_size * sum(column.num_bytes for column in columns)


class PagePool:
    """A fixed number of pages; a page belongs to one (layer, kv head) at a time, and to one sequence or several that
    read the same entries. It is free when the last of these lets go of it.

    Args:
        num_pages: pages that can be handed out (page 0 exists beside them and never is).
        page_size: entries a page.
        columns: what is stored of an entry, see `entry_columns`.
        device: where.
        num_scales: how many of the columns, the last ones, are the form of storage's.
    """

    def __init__(
        self, num_pages: int, page_size: int, columns: Sequence[Column], device: torch.device, num_scales: int = 0
    ) -> None:
        self.columns = columns
        tensors = (column.zeros(num_pages + 1, page_size, device=device) for column in columns)
        self.pages = Pages.of(tensors, num_scales)
        self.num_pages = num_pages
        self.page_size = page_size
        self.page_bytes = page_bytes(page_size, columns)
        self._free = np.arange(num_pages, 0, -1, dtype=np.int32)
        self._num_free = num_pages
        self._num_holders = np.zeros(num_pages + 1, dtype=np.int32)

    @property
    def own_columns(self) -> Sequence[Column]:
        """Those that are the policy's."""
        return self.columns[5 : 5 + len(self.pages.own)]

    @property
    def num_free(self) -> int:
        """Pages nobody holds."""
        return self._num_free

    def take(self, count: int) -> np.ndarray:
        """Hand out `count` pages as they are: for those who write every slot of them.

        Returns:
            [count] int32 page ids.

        Raises:
            OutOfPages: there are fewer; nothing was handed out.
        """
        if count > self._num_free:
            raise OutOfPages(count - self._num_free)
        self._num_free -= count
        ids = self._free[self._num_free : self._num_free + count].copy()
        self._num_holders[ids] = 1
        return ids

    def allocate(self, count: int) -> np.ndarray:
        """As `take`, with the values zeroed: an unwritten slot must not hold a stale NaN, which a weight of zero would
        not silence. Scales are never one."""
        ids = self.take(count)
        value = self.pages.value.view(torch.uint8)
        value.index_fill_(0, torch.from_numpy(ids).to(value.device).long(), 0)
        return ids

    def share(self, ids: np.ndarray) -> None:
        """Give pages one holder more: each of them is to be released once more."""
        self._num_holders[ids] += 1

    def release(self, ids: np.ndarray) -> None:
        """One holder lets go of pages, no two of them the same; those that were held by nobody else are free."""
        self._num_holders[ids] -= 1
        free = ids[self._num_holders[ids] == 0]
        self._free[self._num_free : self._num_free + len(free)] = free
        self._num_free += len(free)
