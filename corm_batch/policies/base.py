"""KVPolicy: which cached entries survive.

A policy is a frozen value; its fields are its hyper-parameters. It sees per-entry tensors and answers with numbers; it
never sees a page, a pool or a scheduler. The engine asks three things and branches on nothing else:

    expiry        the last step at which a query may see a new entry, should no query find it important
    reduction     how recent queries vote; each hit moves an entry's expiry to `window` steps after it
    max_kept      an optional hard bound on the entries of one head, and `rank`, who stays when it is exceeded

An entry leaves at the end of its expiry and its page is freed: "visible at step t" is `t <= expiry` for every policy,
one comparison in every kernel. Steps and positions are 1-based inside their own document.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction
from corm_batch.registry import Plugin


class KVPolicy(Plugin, kind="policy", package="corm_batch.policies"):
    """Which cached entries survive; as it stands, all of them."""

    @property
    def reduction(self) -> Reduction | None:
        """How recent queries vote; None when attention is not looked at."""
        return None

    @property
    def entries_bound(self) -> int | None:
        """Most entries a head holds after prefill, after a chunk and after a compaction; None for no bound."""
        return None

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Expiry of entries at their birth.

        Args:
            layer: index of the layer.
            position: [..., K, N] int32.

        Returns:
            [..., K, N] int32.
        """
        return torch.full_like(position, NEVER)

    def rank(self, entries: Entries, step: int | Tensor) -> Tensor:
        """Order of the entries of each head for `entries_bound`: the highest stay.

        Args:
            entries: [..., K, N].
            step: the last step taken, of each entry's sequence.

        Returns:
            [..., K, N] int64, no two equal in a head. Here: the latest expiry first, then the newest.
        """
        return torch.add(entries.position, entries.expiry.long(), alpha=1 << 32)
