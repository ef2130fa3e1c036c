"""Looks: what the queries of a layer looked at in a pass over prompts, for layers behind it that look at some of it.

A layer's survivors take the place of what its pages held as soon as it has attended, and what was evicted is gone: who
borrows looks at the same entries as the owner's queries did, which are held until the last borrower has. A member of a
group (`kv.groups`) looks at the keys of distant tokens there, and has values of its own for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.rows import Part
from corm_batch.kv.groups import Groups
from corm_batch.kv.layers import Layers
from corm_batch.ops.causal import packed_causal_attention
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.select import Ops

Behind = Callable[[Tensor, int], Entries]
"""Makes of the values of a member's own rows, [K, R, D], and its number the entries that its owner looked at, with
values of the member's."""


class Look(Protocol):
    """Attention of queries over entries that are the same for all layers that ask."""

    def __call__(self, query_HRD: Tensor, features: AttentionFeatures) -> tuple[Tensor, Tensor]:
        """Of queries [H, R, D]: out [H, R, D] and its log-sum-exp [H, R]."""


class OwnLook(Look, Protocol):
    """At entries of the layer's own."""

    def beside(self, other: Any, entries: Entries | None, value: Tensor, groups: Groups) -> Look:
        """A member's look at its own entries, and at the distant ones of what its owner looked at, in one softmax.

        Args:
            other: what that was, a look of the same kind.
            entries: the same with the member's values; None where these are `value`.
            value: of the pass's own rows.
            groups: what is distant.
        """


@dataclass(frozen=True)
class DenseLook:
    """A look at entries [K, N] from their first to some last step.

    Attributes:
        ops: which of them.
        step_R: int32, of the queries.
        key, value, first, last: of the entries.
        packing: where the rows, and where the entries, of several sequences stand; None where all are of one.
    """

    ops: Ops
    step_R: Tensor
    key: Tensor
    value: Tensor
    first: Tensor
    last: Tensor
    packing: tuple[Packing, Packing] | None = None

    def __call__(self, query_HRD: Tensor, features: AttentionFeatures) -> tuple[Tensor, Tensor]:
        """See `Look`."""
        return self.ops.dense_attention(
            query_HRD, self.key, self.value, self.step_R, self.first, self.last, features.scale, features.softcap,
            features.sink_H, self.packing,
        )  # fmt: skip

    def beside(self, other: DenseLook, entries: Entries | None, value: Tensor, groups: Groups) -> DenseLook:
        """See `OwnLook`: the entries of both, side by side; a policy has said how long its own are seen."""
        key, value = (other.key, value) if entries is None else entries[:2]
        distant = (other.first > groups.first) & (other.first < NEVER - groups.recent)
        far = torch.where(distant, other.first + groups.recent, NEVER)
        pairs = (self.key, key), (self.value, value), (self.first, far), (self.last, other.last)
        if self.packing is None or other.packing is None or len(self.packing[1].sizes) == 1:
            packing, parts = None, [(slice(None), slice(None))]
        else:
            (rows, where), (_, there) = self.packing, other.packing
            packing = rows, Packing.of(where.sizes + there.sizes, where.device)
            parts = list(zip(where.slices, there.slices, strict=True))
        key, value, first, last = (
            torch.cat([one for own, theirs in parts for one in (mine[:, own], others[:, theirs])], dim=1)
            for mine, others in pairs
        )
        return DenseLook(self.ops, self.step_R, key, value, first, last, packing)


@dataclass(frozen=True)
class CausalLook:
    """A look at the whole sequences, or at those of their tokens that are there.

    Attributes:
        ops: which of them.
        key, value: [K, R, D], of these tokens.
        part: which tokens.
    """

    ops: Ops
    key: Tensor
    value: Tensor
    part: Part

    def __call__(self, query_HRD: Tensor, features: AttentionFeatures) -> tuple[Tensor, Tensor]:
        """See `Look`."""
        part = self.part
        return packed_causal_attention(
            query_HRD, self.key, self.value, part.packing, features.scale, features.softcap, features.window,
            features.sink_H, dense=self.ops.dense_attention, step_T=None if part.all_there else part.step_R,
        )  # fmt: skip

    def beside(self, other: CausalLook, entries: Entries | None, value: Tensor, groups: Groups) -> SplitLook:
        """See `OwnLook`."""
        first, both = self.part.step_R.expand(len(self.key), -1), (self.part.packing, self.part.packing)
        near = DenseLook(self.ops, self.part.step_R, self.key, value, first, groups.expiry(first), both)
        return SplitLook(near, self.part, other.key, groups)


@dataclass(frozen=True)
class SplitLook:
    """A member's look at whole sequences: at what is near a query by keys of its own, and at the rest by its owner's.

    From the first query on that sees anything distant these see one token more each: that is causal attention, of the
    later rows to the earlier tokens.

    Attributes:
        near: the former.
        part: which tokens.
        key: [K, R, D], of the owner.
        groups: what is distant.
    """

    near: DenseLook
    part: Part
    key: Tensor
    groups: Groups

    def __call__(self, query_HRD: Tensor, features: AttentionFeatures) -> tuple[Tensor, Tensor]:
        """See `Look`."""
        out, lse = self.near(query_HRD, features)
        distant = _distant(tuple(self.part.packing.sizes.tolist()), self.groups, out.device)
        if distant is None:
            return out, lse
        rows, tokens, packing = distant
        seen = query_HRD[:, rows], self.key[:, tokens], self.near.value[:, tokens], packing
        far, far_lse = packed_causal_attention(
            *seen, features.scale, features.softcap, dense=self.near.ops.dense_attention
        )
        both = torch.logaddexp(lse[:, rows], far_lse)
        share, others = ((one - both).exp()[..., None] for one in (lse[:, rows], far_lse))
        mixed = (out[:, rows].float() * share + far.float() * others).to(out.dtype)
        return out.index_copy(1, rows, mixed), lse.index_copy(1, rows, both)


@lru_cache(4)
def _distant(sizes: tuple[int, ...], groups: Groups, device: torch.device) -> tuple[Tensor, Tensor, Packing] | None:
    """Of sequences of these sizes the rows that see something distant, the tokens that are, and where both stand; None
    for nothing. Remembered, for a copy in every layer would have the device wait."""
    skip, rows, tokens, start = groups.first + groups.recent, list[Tensor](), list[Tensor](), 0
    for size in sizes:
        rows.append(torch.arange(start + min(skip, size), start + size, device=device))
        tokens.append(rows[-1] - groups.recent)
        start += size
    left = [len(one) for one in rows if len(one)]
    return (torch.cat(rows), torch.cat(tokens), Packing.of(left, device)) if left else None


@dataclass(frozen=True)
class Seen:
    """A look, and how what it looks at is read with other layers' values; None where that is its own rows alone."""

    look: OwnLook
    behind: Behind | None


class Looks:
    """Those of one pass.

    Args:
        layers: which of them look at the same.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._noted: dict[int, deque[Seen]] = {}

    def of(self, layer: int) -> LayerLooks:
        """Those of a layer, which come in one order in all layers that look at the same. Nothing stays there of what
        nobody else wants: it would be memory held for nothing."""
        layers, member = self._layers, self._layers.member(layer)
        row = layers.row(layer) if member is None else member.owner
        if layer not in layers.borrowers and member is None:
            outlives = layers.outlives(layer) or layers.num_members[row] > 0
            noted = deque[Seen](maxlen=None if outlives else 0)
            if outlives:
                self._noted[row] = noted
            return LayerLooks(noted, None, 0)
        lasts = not layers.outlives(layer) if member is None else member.number == layers.num_members[row]
        before = self._noted.pop(row) if lasts else self._noted[row].copy()
        return LayerLooks(before, layers.groups, 0 if member is None else member.number)


@dataclass(frozen=True)
class LayerLooks:
    """Those of one layer of a pass.

    Attributes:
        noted: its own, or of a layer that looks at another's what that one has noted.
        groups: of a member, what is distant.
        number: of a member, which of its owner's it is; 0 of all others.
    """

    noted: deque[Seen]
    groups: Groups | None
    number: int

    def borrowed(self) -> Look:
        """The next one of the layer whose entries this one borrows."""
        return self.noted.popleft().look

    def see(self, look: OwnLook, value_KRD: Tensor, behind: Behind | None = None) -> Look:
        """What the layer looks at next.

        Args:
            look: at its own entries.
            value_KRD: of the rows of the pass.
            behind: see `Seen`.
        """
        if not self.number or self.groups is None:
            self.noted.append(Seen(look, behind))
            return look
        seen = self.noted.popleft()
        entries = None if seen.behind is None else seen.behind(value_KRD, self.number)
        return look.beside(seen.look, entries, value_KRD, self.groups)
