"""Extra passes: tokens behind prompts see all of these, and what the policy finds stays with the prompts' entries.

    entries of one launch    [ prompt 1 | its pass ]  [ prompt 2 | its pass ]  ...
    rows                                [ pass 1 ]               [ pass 2 ]    ...

What is read behind a prompt sees the prompt and itself, not what else is read there: passes of one prompt go beside
each other, each with a copy of it, as do those of several. Prompts are copied out of their pages up to a bound, and a
layer launches as much for fifty passes as for one.
"""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.entries import new_entries
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.looks import DenseLook, LayerLooks
from corm_batch.engine.work import Span
from corm_batch.kv.cache import KVCache
from corm_batch.kv.stage import GATHERED_ENTRIES, Ends
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries
from corm_batch.policies.reading import ExtraReading


class ExtraPasses:
    """The extra passes of one pass over prompts: which of them go together, and how they are run.

    Args:
        spans: of the pass.
        cache: where the prompts' entries are.
    """

    def __init__(self, spans: abc.Sequence[Span], cache: KVCache) -> None:
        self._spans, self._cache = spans, cache
        self._runs: dict[tuple[int, int], Behind] = {}
        self._bundles: dict[Span, np.ndarray] = {}
        total = np.zeros(len(cache.table.lengths[0]), np.int64)
        for span in spans:
            if span.extra is not None:
                total = total + cache.table.lengths[span.sequence.slot].sum(axis=1)
                self._bundles[span] = total // GATHERED_ENTRIES

    def kind(self, span: Span, layer: int) -> tuple[object, ...]:
        """What passes have in common that go together in a layer."""
        return "behind", int(self._bundles[span][layer])

    def of(self, spans: abc.Sequence[Span]) -> Behind:
        """Neighbours that go together in some layers; made once for all these."""
        key = self._spans.index(spans[0]), len(spans)
        if (behind := self._runs.get(key)) is None:
            behind = self._runs[key] = Behind(spans, self._cache)
        return behind


class Behind:
    """Neighbours of a pass that are read behind prompts which are wholly in the cache.

    Args:
        spans: these.
        cache: where the prompts are.
    """

    def __init__(self, spans: abc.Sequence[Span], cache: KVCache) -> None:
        self._cache, self._spans = cache, spans
        self._abouts = tuple(span.extra.about for span in spans if span.extra is not None)
        self._rows = Packing.of([span.num_tokens for span in spans], cache.device)
        self._prompts = _prompts(spans, cache)
        self._packings = dict[bytes, Packing]()
        sizes = [len(about) for about in self._abouts]
        place = np.concatenate([np.array(about, np.int64) for about in self._abouts])
        places = np.stack((np.repeat(np.arange(len(sizes)), sizes), place))
        self._owner_A, self._place_A = torch.from_numpy(places).to(cache.device)

    def attend(
        self,
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        step_R: Tensor,
        token_ids_R: Tensor,
        features: AttentionFeatures,
        evictions: Evictions,
        looks: LayerLooks,
    ) -> Tensor:
        """Attention of one layer; the passes' own entries end with it.

        Args:
            layer, query_HRD, key_KRD, value_KRD, step_R, token_ids_R, features: of their tokens.
            evictions: the policies and the cache.
            looks: the layer's.

        Returns:
            [H, R, D].
        """
        cache, policy = self._cache, evictions.policies[layer]
        whole = evictions.of(self._spans[0].sequence).policies[layer]
        born = new_entries(cache, policy, layer, key_KRD, value_KRD, step_R, expiring=whole)
        packing = self._rows, self._where(layer)

        def behind(value: Tensor, member: int) -> Entries:
            return cache.read_ends(self._prompts, layer, born._replace(value=value), packing, member)

        entries = behind(value_KRD, 0)
        own = DenseLook(cache.ops, step_R, *entries[:4], packing)
        out, _ = looks.see(own, value_KRD, behind)(query_HRD, features)
        if policy.needs.extra_passes:
            reading = ExtraReading(
                query_HRD, step_R, token_ids_R, *packing, self._abouts, cache.ops, features.scale, features.softcap,
                features.sink_H,
            )  # fmt: skip
            found = policy.observe_extra(layer, entries, reading)
            cache.write_own(self._prompts, layer, self._owner_A, self._place_A, found)
        return out

    def _where(self, layer: int) -> Packing:
        """Where each prompt's entries stand, its pass's behind them."""
        widths = self._prompts.widths[layer]
        if (where := self._packings.get(widths.tobytes())) is None:
            where = self._packings[widths.tobytes()] = Packing.of(self._rows.sizes + widths, self._cache.device)
        return where


def _prompts(spans: abc.Sequence[Span], cache: KVCache) -> Ends:
    """The prompt of each, which is looked up once for several passes of it."""
    slots = [span.sequence.slot for span in spans]
    found, number = np.unique(slots, return_inverse=True)
    prompts, which = cache.ends(found.tolist(), None), torch.from_numpy(number).to(cache.device)
    table, length, others = (column.index_select(1, which) for column in prompts[:3])
    return Ends(table, length, others, prompts.widths[:, number], prompts.slot[which])
