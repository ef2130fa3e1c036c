"""PagePool: the memory every entry of every document lives in, and who may use which page. Nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corm_batch.errors import OutOfPages
from corm_batch.kv.layout import Layout


class PagePool:
    """A fixed number of pages; a page belongs to one (layer, kv head) at a time, and to one sequence or several that
    read the same entries. It is free when the last of these lets go of it.

    Args:
        num_pages: pages that can be handed out (page 0 exists beside them and never is).
        layout: what stands in them, layer by layer.
        device: where.

    Attributes:
        layers: by layer, the columns of all pages, as they stand in those of this layer.
        words: [P, page_bytes / 8] int64, the same memory for those who move pages whatever is in them.
    """

    def __init__(self, num_pages: int, layout: Layout, device: torch.device) -> None:
        self.layout, self.num_pages, self.page_bytes = layout, num_pages, layout.page_bytes
        memory = _zeros(num_pages + 1, layout.page_bytes, device)
        self.layers, self.words = layout.views(memory), memory.view(torch.int64)
        self._free = np.arange(num_pages, 0, -1, dtype=np.int32)
        self._num_free = num_pages
        self._num_holders = np.zeros(num_pages + 1, dtype=np.int32)

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
        """As `take`, zeroed: an unwritten slot must not hold a value that is a stale NaN, which a weight of zero would
        not silence."""
        ids = self.take(count)
        self.words.index_fill_(0, torch.from_numpy(ids).to(self.words.device).long(), 0)
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


def _zeros(num_pages: int, num_bytes: int, device: torch.device) -> Tensor:
    """[P, bytes] uint8."""
    if device.type != "cpu":
        return torch.zeros(num_pages, num_bytes, dtype=torch.uint8, device=device)
    # The system gives a page of these when it is first written to: a pool takes what its entries do.
    return torch.from_numpy(np.zeros((num_pages, num_bytes), np.uint8))
