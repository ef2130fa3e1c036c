"""The GPU's column reduction against the definition, run in float32 on the same numbers."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops import reduction as definition
from corm_batch.ops.dense import attention_scores, dense_attention
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import ALL_ROWS, Reduction
from corm_batch.ops.spread import spread_hits
from tests.ops.devices import KERNEL_DEVICES

pytest.importorskip("triton")
kernels = pytest.importorskip("corm_batch.ops.kernels.reduction")

BORDERLINE, BORDERLINE_ON_TENSOR_CORES = 1e-5, 1e-4
"""Hits whose log weight is this near the threshold's may go either way."""


def packed(rows, heads, width, device, dtype):
    """[heads, rows, width], a slice of a packed [rows, heads, width] tensor as the model makes it."""
    return torch.randn(rows + 3, heads, width, device=device).to(dtype)[2 : 2 + rows].transpose(0, 1)


def make_case(group, kv_heads, rows, kept, width, device, dtype, softcap=None):
    """The rows of a chunk, their lse, and entries: ragged kept ones, padding, then the rows' own."""
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies no bfloat16")
    query, key = (
        packed(rows, group * kv_heads, width, device, dtype),
        packed(kept + rows, kv_heads, width, device, dtype),
    )
    query *= 2
    position = torch.arange(1, kept + rows + 1, dtype=torch.int32, device=device).repeat(kv_heads, 1)
    for k in range(kv_heads):
        old = torch.randperm(3 * kept)[:kept].sort().values + 1  # evictions left gaps between the positions
        position[k, :kept] = old.int()
        position[k, int(torch.randint(kept // 2, kept + 1, ())) : kept] = NEVER
    step = torch.arange(3 * kept + 1, 3 * kept + rows + 1, dtype=torch.int32, device=device)
    position[:, kept:] = step
    expiry = position.clamp(max=NEVER - 999) + torch.randint(1, 60, position.shape, dtype=torch.int32, device=device)
    statistic = torch.rand(position.shape, device=device)
    entries = Entries(key, key, position, expiry, statistic)
    last = torch.full_like(position, NEVER)
    clean = key.float()
    _, lse = dense_attention(query.float(), clean, clean, step, position, last, width**-0.5, softcap)
    return query, lse, step, entries, last, width**-0.5, softcap


def borderline(reduction, query, lse, step, entries, last, scale, softcap):
    """[K, N]: entries that a rounding error could hit, themselves or through a neighbour."""
    if reduction.threshold is None:
        return torch.zeros_like(last, dtype=torch.bool)
    scores = attention_scores(query.float(), entries.key.float(), scale, softcap)
    visible = (entries.position[:, None] <= step[:, None]) & (step[:, None] <= last[:, None])
    count = step[:, None] if reduction.threshold == "step" else visible.sum(dim=-1, keepdim=True)
    distance = (scores - lse.view(*scores.shape[:3], 1)).amax(dim=1) - torch.log(reduction.tau / count.float())
    exact = query.dtype == torch.float32 or query.device.type == "cpu"
    close = (distance.abs() < (BORDERLINE if exact else BORDERLINE_ON_TENSOR_CORES)) & visible
    return spread_hits(close, entries.position[:, None], reduction.reach).any(dim=1)


def assert_equals_definition(reduction, case, gap_rule):
    """Garbage replaces the padding before the kernel sees it."""
    query, lse, step, entries, last, scale, softcap = case
    upcast = entries._replace(key=entries.key.float())
    expected = definition.reduce_columns(
        reduction, query.float(), lse, step, upcast, last, scale, softcap, gap_rule=gap_rule
    )
    padding = entries.position == NEVER
    compared = ~padding & ~borderline(reduction, *case)
    assert compared.sum() >= 0.6 * (~padding).sum()
    entries.key.masked_fill_(padding[..., None], torch.nan)
    before = [x.clone() for x in entries.tensors]
    voted = kernels.reduce_columns(reduction, query, lse, step, entries, last, scale, softcap, gap_rule=gap_rule)
    assert torch.equal(voted.expiry[compared], expected.expiry[compared])
    torch.testing.assert_close(voted.statistic[compared], expected.statistic[compared], rtol=1e-4, atol=1e-5)
    assert torch.equal(voted.expiry[padding], entries.expiry[padding])
    assert torch.equal(voted.statistic[padding], entries.statistic[padding])
    assert all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(entries.tensors, before, strict=True))
    assert voted.key is entries.key
    assert voted.value is entries.value
    if reduction.threshold is not None:
        hit = expected.expiry > entries.expiry
        assert hit.any() or compared.sum() < 50


KINDS = [
    Reduction(window=300, threshold="step"),
    Reduction(window=1, threshold="step", tau=2.0),
    Reduction(window=7, threshold="cache", tau=3.0),
    Reduction(window=40, threshold="cache"),
    Reduction(window=9),
    Reduction(window=5, threshold="step", tau=9.0, reach=4),
    Reduction(window=100, threshold="cache", tau=9.0, reach=4),
    Reduction(window=20, threshold="step", tau=30.0, reach=50),
    Reduction(window=9, reach=4),
    Reduction(window=9, statistic="sum_squares"),
    Reduction(window=40, threshold="step", tau=9.0, statistic="sum_squares"),
    Reduction(window=9, statistic="max"),
    Reduction(window=7, threshold="step", tau=9.0, statistic="max"),
    Reduction(window=ALL_ROWS, threshold="step", tau=9.0, statistic="count_low"),
    Reduction(window=40, threshold="cache", tau=9.0, reach=4, statistic="count_low"),
    Reduction(window=1, statistic="last"),
]


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(("reduction", "gap_rule"), zip(KINDS, [False, True] * 8, strict=True), ids=str)
def test_every_kind_of_vote(reduction, gap_rule, device):
    case = (2, 2, 90, 77, 64, device, torch.bfloat16)
    if device == "cpu":  # the interpreter takes a second for what a GPU does in none, and longest for half floats
        case = (2, 1, 34, 61, 16, device, torch.float32)
    assert_equals_definition(reduction, make_case(*case), gap_rule)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("group", "kv_heads", "rows", "kept", "width"),
    [
        (1, 2, 130, 170, 128),
        (4, 1, 63, 14, 64),
        (8, 2, 7, 70, 80),
        (12, 1, 1, 4, 16),
        (3, 1, 40, 300, 96),
        (1, 1, 1, 0, 256),
    ],
)
def test_odd_sizes(group, kv_heads, rows, kept, width, dtype, device):
    if device == "cpu" and dtype == torch.float16 and rows * kept > 10_000:
        pytest.skip("too large for the interpreter in half floats")
    case = make_case(group, kv_heads, rows, kept, width, device, dtype)
    assert_equals_definition(Reduction(window=30, threshold="step", tau=1.5), case, gap_rule=True)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_a_reach_too_far_for_wide_float32_keys(device):
    case = make_case(2, 1, 10, 60, 256, device, torch.float32)
    assert_equals_definition(Reduction(20, "step", tau=9.0, reach=50), case, gap_rule=True)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("reach", [0, 4])
def test_soft_caps(reach, device):
    case = make_case(2, 1, 50, 90, 64, device, torch.float16, softcap=4.0)
    assert_equals_definition(Reduction(25, "step", tau=4.0, reach=reach), case, gap_rule=False)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("gap_rule", [False, True])
@pytest.mark.parametrize(
    "reduction",
    [
        Reduction(11, "cache", 3.0),
        Reduction(11, "step", 9.0, reach=3),
        Reduction(ALL_ROWS, "step", 9.0, statistic="count_low"),
        Reduction(ALL_ROWS, statistic="max"),
    ],
    ids=str,
)
def test_what_attention_did_not_see_does_not_count(reduction, gap_rule, device):
    rows = 34 if device == "cpu" else 80
    query, _, step, entries, last, scale, _ = make_case(2, 2, rows, 60, 16, device, torch.float32)
    last = entries.position.clamp(max=NEVER - 999) + torch.randint(
        -2, 150, last.shape, dtype=torch.int32, device=device
    )
    sink = torch.zeros(4, device=device)
    _, lse = dense_attention(query, entries.key, entries.key, step, entries.position, last, scale, sink_H=sink)
    assert_equals_definition(reduction, (query, lse, step, entries, last, scale, None), gap_rule)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_the_last_rows_of_a_whole_prompt_vote(device):
    case = make_case(2, 1, 200, 0, 64, device, torch.float16)
    query, lse, step, entries, last, scale, _ = case
    entries = entries._replace(position=step.expand(1, -1))  # as the engine passes it
    votes = slice(-50, None)
    case = (query[:, votes], lse[:, votes], step[votes], entries, last, scale, None)
    assert_equals_definition(Reduction(50, "step"), case, gap_rule=False)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_nothing_to_vote_on_and_nobody_to_vote(device):
    query, lse, step, entries, last, scale, _ = make_case(2, 1, 5, 8, 16, device, torch.float32)
    reduction = Reduction(4, "step")
    same = kernels.reduce_columns(reduction, query[:, :0], lse[:, :0], step[:0], entries, last, scale, gap_rule=True)
    assert torch.equal(same.expiry, entries.expiry)
    assert torch.equal(same.statistic, entries.statistic)
    empty = entries.map(lambda x: x[:, :0])
    none = kernels.reduce_columns(reduction, query, lse, step, empty, last[:, :0], scale, gap_rule=True)
    assert none.expiry.shape == (1, 0)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("gap_rule", [False, True])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 129])
@pytest.mark.parametrize(
    "reduction",
    [
        Reduction(63, "step", 30.0),
        Reduction(65, "cache", 15.0),
        Reduction(64, "step", 30.0, reach=1),
        Reduction(64),
        Reduction(64, "step", 30.0, statistic="count_low"),
    ],
    ids=str,
)
def test_what_begins_and_ends_around_the_edges_of_tiles(reduction, rows, gap_rule, device):
    """Tiles that need no mask next to some that do; expiries that fall on a tile's edge; a head without entries."""
    query, _, step, entries, last, scale, _ = make_case(2, 3, rows, 257, 16, device, torch.float16)
    edges = step[0] + torch.tensor([15, 31, 63, 127], device=device)[torch.randint(4, last.shape)]
    entries = entries._replace(expiry=(edges + torch.randint(-1, 2, last.shape, device=device)).int())
    last[1] = edges[1, 0] + torch.randint(-1, 2, ()).item()  # of all entries of a head; those of head 0 have no end
    entries.position[2] = NEVER
    clean = entries.key.float()
    _, lse = dense_attention(query.float(), clean, clean, step, entries.position, last, scale)
    assert_equals_definition(reduction, (query, lse, step, entries, last, scale, None), gap_rule)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("old", [126, 127, 128])
@pytest.mark.parametrize("votes", [1, 64, 100])
def test_a_program_whose_entries_are_seen_from_some_row_on(votes, old, device):
    """The newest entry of a program is born just before, at or after the first row of a tile."""
    query, _, step, entries, last, scale, _ = make_case(1, 2, old + votes, 0, 16, device, torch.float16)
    entries = entries._replace(position=step.repeat(2, 1))
    clean = entries.key.float()
    _, lse = dense_attention(query.float(), clean, clean, step, entries.position, last, scale)
    rows = slice(old, None)
    case = (query[:, rows], lse[:, rows], step[rows], entries, last, scale, None)
    assert_equals_definition(Reduction(votes), case, gap_rule=False)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_padding_stays_as_it_is_where_everything_is_hit(device):
    query, lse, step, entries, last, scale, _ = make_case(1, 2, 70, 257, 16, device, torch.float16)
    entries = entries._replace(expiry=entries.expiry.clamp(max=500))
    assert_equals_definition(
        Reduction(70, "step", 1e-6), (query, lse, step, entries, last, scale, None), gap_rule=False
    )


@pytest.mark.gpu
@pytest.mark.parametrize("gap_rule", [False, True])
@pytest.mark.parametrize("group", [1, 4])
def test_sizes_that_are_served(group, gap_rule):
    case = make_case(group, 2, 1500, 2100, 128, "cuda", torch.bfloat16)
    assert_equals_definition(Reduction(256, "step"), case, gap_rule)
