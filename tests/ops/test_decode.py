"""Paged decode attention against the dense definition, on ragged, empty-tailed and shuffled pages."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops.decode import decode_attention
from corm_batch.ops.dense import dense_attention
from corm_batch.ops.pages import Entries, Pages, read_pages, write_pages
from corm_batch.ops.reduction import Reduction, reduce_columns

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
REDUCTIONS = [None, Reduction(5, "step", 1.2), Reduction(9, "cache", 0.8), Reduction(4)]


def fill(device, dtype, sequences, kv_heads, page_size, width):
    """A pool with ragged lists in shuffled pages; table, lengths and the step each sequence is at."""
    lengths = torch.randint(1, 40, (sequences, kv_heads), device=device)
    lengths[0, 0] = 1
    num_lists, longest = sequences * kv_heads, -(-int(lengths.max()) // page_size)
    pool = num_lists * longest + 1
    pages = Pages(
        *(torch.zeros(pool, page_size, width, device=device, dtype=dtype) for _ in range(2)),
        *(torch.randint(0, 99, (pool, page_size), device=device, dtype=torch.int32) for _ in range(2)),
        torch.zeros(pool, page_size, device=device),
    )
    ids = (torch.randperm(pool - 1, device=device) + 1).view(sequences, kv_heads, longest)
    used = torch.arange(longest, device=device) * page_size < lengths[..., None]
    table = torch.where(used, ids, 0)
    step = lengths.amax(dim=1).int() + torch.randint(0, 30, (sequences,), device=device).int()
    for s in range(sequences):
        for k in range(kv_heads):
            n = int(lengths[s, k])
            position = (torch.randperm(int(step[s]), device=device)[:n] + 1).int().sort().values
            position[-1] = step[s]
            expiry = step[s] + torch.randint(-3, 9, (n,), device=device).int()
            expiry[-1] = step[s] + 3
            keys, values = (torch.randn(n, width, device=device, dtype=dtype) for _ in range(2))
            index = torch.arange(n, device=device)
            entries = Entries(keys, values, position, expiry, torch.rand(n, device=device))
            write_pages(pages, table[s, k, index // page_size], index % page_size, entries)
    return pages, table, lengths, step


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("kv_heads", "group", "page_size", "features"), [(2, 3, 4, ""), (1, 1, 16, "softcap"), (3, 8, 5, "sink")]
)
def test_matches_the_dense_definition(device, reduction, dtype, tolerance, kv_heads, group, page_size, features):
    pages, table, lengths, step = fill(device, dtype, 5, kv_heads, page_size, 16)
    query = torch.randn(5, kv_heads * group, 16, device=device, dtype=dtype)
    softcap = 1.5 if features == "softcap" else None
    sink = torch.randn(kv_heads * group, device=device) if features == "sink" else None
    before = [read_pages(pages, table[s], lengths[s]) for s in range(5)]
    out = decode_attention(pages, table, lengths, query, step, reduction, 0.3, softcap, sink)
    for s, entries in enumerate(before):
        exact = entries._replace(key=entries.key.float(), value=entries.value.float())
        row, now = query[s][:, None].float(), step[s : s + 1]
        expected, lse = dense_attention(
            row, exact.key, exact.value, now, exact.position, exact.expiry, 0.3, softcap, sink
        )
        assert (out[s].float() - expected[:, 0]).norm() / expected.norm() < tolerance
        after = read_pages(pages, table[s], lengths[s])
        if reduction is not None:
            exact = reduce_columns(reduction, row, lse, now, exact, exact.expiry, 0.3, softcap, gap_rule=True)
        real = entries.position <= now
        assert torch.equal(after.expiry[real], exact.expiry[real])
        torch.testing.assert_close(after.mass[real], exact.mass[real], rtol=1e-4, atol=1e-5)


def test_garbage_behind_a_list_does_not_reach_the_output():
    pages, table, lengths, step = fill("cpu", torch.float32, 5, 2, 4, 16)
    query = torch.randn(5, 6, 16)
    expected = decode_attention(pages, table, lengths, query, step, None, 0.3)
    index = torch.arange(4)
    for s in range(5):
        for k in range(2):
            last, used = int(lengths[s, k] - 1) // 4, int(lengths[s, k] - 1) % 4
            pages.key[table[s, k, last], index > used] = torch.nan
            pages.position[table[s, k, last], index > used] = 1
    assert torch.equal(decode_attention(pages, table, lengths, query, step, None, 0.3), expected)
