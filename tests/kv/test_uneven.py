"""Layers of narrower entries beside others in one cache: each is as it would be in a cache of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.kv.cache import KVCache
from corm_batch.kv.layers import Layers
from corm_batch.kv.layout import Layout
from corm_batch.ops.append import append_entries
from corm_batch.ops.compact import compact_lists
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Column, Entries
from tests.kv.uneven import columns_of
from tests.ops.forms import MODEL

CPU, HEADS, WIDTHS = torch.device("cpu"), 2, ((8, 8), (4, 4), (4, 4), (2, 12))
OWN = (Column("level", torch.int32),)


def entries(widths, *lead):
    """Entries of which some expire at step 50."""
    return Entries(
        *(torch.randn(*lead, width) for width in widths),
        torch.randint(1, 50, lead, dtype=torch.int32),
        torch.randint(40, 99, lead, dtype=torch.int32),
        torch.rand(lead),
        (torch.randint(-99, 99, lead, dtype=torch.int32),),
    )


def cache_of(layout):
    return KVCache(6, Layers(len(layout.by_layer)), HEADS, 400, layout, MODEL, CPU)


class Both:
    """A cache of uneven layers and, for each of these, one of its own, which do the same."""

    def __init__(self):
        columns = [columns_of(*widths, OWN) for widths in WIDTHS]
        layout = Layout(columns, 4)
        alone = [Layout([one], size) for one, size in zip(columns, layout.by_layer, strict=True)]
        self.together, self.apart = cache_of(layout), [cache_of(one) for one in alone]

    def each(self, do):
        """What is done to every cache, with the rows of its layers; the same of all."""
        done = [do(self.together, range(len(WIDTHS)))]
        done += [do(cache, [layer]) for layer, cache in enumerate(self.apart)]
        return done[0]

    def store(self, slot, num_born, keep, behind):
        born = [entries(widths, HEADS, num_born) for widths in WIDTHS]
        kept = [torch.rand(HEADS, 40 + num_born) < keep for _ in WIDTHS]

        def do(cache, layers):
            ends, stage = cache.ends([slot]), cache.stage([slot], 60)
            for row, layer in enumerate(layers):
                new, stays = born[layer], kept[layer][:, :num_born]
                if behind:
                    width = int(ends.widths[row, 0])
                    where = tuple(Packing.alone(count, CPU) for count in (num_born, width + num_born))
                    new = cache.read_ends(ends, row, new, where)
                    stays = (new.position != NEVER) & kept[layer][:, : width + num_born]
                cache.store(stage, [slot], row, new, stays)
            cache.commit(stage)

        self.each(do)

    def append(self, slots):
        new = [entries(widths, len(slots), HEADS) for widths in WIDTHS]

        def do(cache, layers):
            cache.reserve(slots)
            for row, layer in enumerate(layers):
                append_entries(cache.pages(row), cache.lists(row, torch.from_numpy(slots)), new[layer], form=MODEL)
            cache.advance(slots)

        self.each(do)

    def compact(self, slots):
        steps = torch.full((len(slots),), 50, dtype=torch.int32)

        def do(cache, layers):
            for run in cache.layout.runs:
                compact_lists(cache.pages(run.start), cache.table.lists_of(run, torch.from_numpy(slots)), steps)
            cache.settle(slots)

        self.each(do)

    def check(self, slots):
        for slot in slots:
            for layer, cache in enumerate(self.apart):
                read, alone = self.together.read(slot, layer), cache.read(slot, 0)
                assert self.together.table.lengths[slot, layer].tolist() == cache.table.lengths[slot, 0].tolist()
                for one, other in zip(read.tensors, alone.tensors, strict=True):
                    there = alone.position != NEVER
                    assert torch.equal(one[there], other[there])
            assert self.together.pages_held(slot) == sum(cache.pages_held(slot) for cache in self.apart)
            assert self.together.peak_pages[slot] >= self.together.pages_held(slot)
        taken = [cache.pool.num_pages - cache.pool.num_free for cache in (self.together, *self.apart)]
        assert taken[0] == sum(taken[1:])


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    moves=st.lists(st.sampled_from(["store", "behind", "append", "compact", "fork", "swap"]), min_size=1, max_size=9),
)
def test_each_layer_is_as_it_would_be_alone(seed, moves):
    torch.manual_seed(seed)
    both = Both()
    slots, sources = [both.each(lambda cache, layers: cache.open())], {}
    both.store(slots[0], 17, 0.8, behind=False)
    for number, move in enumerate(moves):
        slot = slots[number % len(slots)]
        changing = [one for one in slots if one not in sources.values()]  # what others begin with stays
        if move == "fork" and len(slots) < 5 and slot not in sources:
            new = both.each(lambda cache, layers, one=slot: cache.fork(one))
            slots.append(new)
            sources[new] = slot
            both.store(new, 3, 1.0, behind=True)
        elif move == "append":
            both.append(np.array(changing))
        elif move == "compact":
            both.compact(np.array(changing))
        elif move in ("store", "behind") and slot in changing:
            both.store(slot, 5 + number, 0.7, behind=move == "behind" or slot in sources)
        elif move == "swap" and slot in changing:
            source = sources.pop(slot, None)
            back = both.each(lambda cache, layers, one=slot, behind=source: cache.swap_in(cache.swap_out(one), behind))
            slots[slots.index(slot)] = back
            if source is not None:
                sources[back] = source
        both.check(slots)
    for slot in slots:
        both.each(lambda cache, layers, one=slot: cache.close(one))
    assert both.together.pool.num_free == both.together.pool.num_pages


@pytest.mark.parametrize("num_entries", [1, 4, 11])
def test_pages_that_are_missing_are_counted_layer_by_layer(num_entries):
    both = Both()
    slot = both.each(lambda cache, layers: cache.open())
    both.store(slot, 17, 0.5, behind=False)
    slots = np.array([slot])
    missing = both.together.missing_pages(slots, num_entries)
    assert missing == sum(cache.missing_pages(slots, num_entries) for cache in both.apart)
    both.each(lambda cache, layers: cache.reserve(slots, num_entries))
    both.check([slot])
