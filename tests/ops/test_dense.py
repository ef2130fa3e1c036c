"""The dense definition against softmax written out, row by row."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops import dense
from corm_batch.ops.dense import dense_attention, row_tiles


def by_hand(query, key, value, step, first, last, scale, softcap, sink):
    """One row and head at a time, in float64."""
    heads, rows, width = query.shape
    group = heads // key.shape[0]
    out, lse = torch.zeros(heads, rows, width, dtype=torch.float64), torch.zeros(heads, rows, dtype=torch.float64)
    for h in range(heads):
        for r in range(rows):
            k = h // group
            seen = ((first[k] <= step[r]) & (step[r] <= last[k])).nonzero()[:, 0]
            logits = key[k, seen].double() @ query[h, r].double() * scale
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            sinks = torch.zeros(0, dtype=torch.float64) if sink is None else sink[h : h + 1].double()
            weights = torch.softmax(torch.cat((logits, sinks)), dim=0)[: len(seen)]
            out[h, r], lse[h, r] = weights @ value[k, seen].double(), torch.cat((logits, sinks)).logsumexp(0)
    return out, lse


@pytest.mark.parametrize("features", ["plain", "softcap", "sink", "both"])
@pytest.mark.parametrize(("heads", "kv_heads", "rows", "entries"), [(4, 2, 5, 17), (3, 3, 1, 1), (6, 1, 33, 40)])
def test_matches_softmax_by_hand(features, heads, kv_heads, rows, entries, monkeypatch):
    monkeypatch.setattr(dense, "TILE_SCORES", 200)  # several tiles
    query, key = torch.randn(heads, rows, 12), torch.randn(kv_heads, entries, 12)
    value = torch.randn(kv_heads, entries, 12)
    step = torch.arange(entries, entries + rows, dtype=torch.int32)
    first = torch.stack([torch.randperm(entries) + 1 for _ in range(kv_heads)]).int()
    last = first + torch.randint(0, 2 * entries, first.shape, dtype=torch.int32)
    last[:, 0], first[:, 0] = 10_000, 1  # every row sees something
    softcap = 3.0 if features in ("softcap", "both") else None
    sink = torch.randn(heads) if features in ("sink", "both") else None
    out, lse = dense_attention(query, key, value, step, first, last, 0.4, softcap, sink)
    expected_out, expected_lse = by_hand(query, key, value, step, first, last, 0.4, softcap, sink)
    assert (out - expected_out).norm() / expected_out.norm() < 1e-5
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)


def test_a_head_without_entries_but_a_sink_gives_zero():
    query, empty = torch.randn(2, 3, 8), torch.zeros(1, 0, 8)
    none = torch.zeros(1, 0, dtype=torch.int32)
    sink = torch.randn(2)
    out, lse = dense_attention(query, empty, empty, torch.arange(1, 4).int(), none, none, 1.0, sink_H=sink)
    assert out.abs().max() == 0
    torch.testing.assert_close(lse, sink[:, None].expand(2, 3))


@pytest.mark.parametrize(("rows", "heads", "entries"), [(0, 4, 10), (1, 1, 1), (1000, 8, 12345), (7, 64, 10**9)])
def test_tiles_cover_every_row_once(rows, heads, entries):
    covered = [row for tile in row_tiles(rows, heads, entries) for row in range(rows)[tile]]
    assert covered == list(range(rows))
