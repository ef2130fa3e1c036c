"""KVPolicy: which cached entries survive.

A policy is a frozen value; its fields are its hyper-parameters. It sees per-entry tensors (position, one number of state,
keys) and answers with masks or ranks; it never sees a page, a pool or a scheduler. Everything it may ask of the engine:

    reduction          which pass over (recent query rows x keys) keeps the per-entry `state` up to date, if any
    visible(...)       may a query at step t see this entry; once False it stays False and the entry's page is freed
    max_kept, rank     an optional hard bound on the entries of one head, and which go first when it is exceeded

Steps and positions are 1-based inside their own document: the first token has position 1 and is fed at step 1.
"""

from __future__ import annotations

from torch import Tensor

from corm_batch.ops.reduction import Reduction
from corm_batch.registry import Plugin


class KVPolicy(Plugin, kind="policy", package="corm_batch.policies"):
    """Keeps every entry; subclasses override what they need.

    Tensor letters: K kv heads, N entries; leading dimensions may be anything (`...`), the kv head is always the one
    before the last.
    """

    @property
    def reduction(self) -> Reduction | None:
        """The observed-attention pass this policy needs; None when it decides without looking at attention."""
        return None

    @property
    def entries_bound(self) -> int | None:
        """Most entries one head may keep when pages are next compacted; None for no bound."""
        return None

    def visible(self, layer: int, position: Tensor, state: Tensor, step: Tensor) -> Tensor:
        """Which entries a query at `step` may still see.

        Args:
            layer: index of the layer.
            position: [..., K, N] int32, 1-based token position of each entry.
            state: [..., K, N] what `reduction` accumulated (its dtype); zeros when there is no reduction.
            step: broadcastable to [..., K, N] int32, the query's own 1-based position.

        Returns:
            [..., K, N] bool.
        """
        return position <= step

    def rank(self, layer: int, position: Tensor, state: Tensor, step: Tensor) -> Tensor:
        """Order among visible entries when `entries_bound` is exceeded: the highest stay.

        Args and shapes as in `visible`.

        Returns:
            [..., K, N] int64, no two equal within a head.
        """
        return position.long()
