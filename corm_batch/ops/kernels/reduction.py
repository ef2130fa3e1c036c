"""Column reduction on a GPU: each program keeps a few entries' votes in registers while the query rows go by.

    entries of one kv head            rows, oldest first; the heads of the group one after the other
    [ key (BLOCK_N x D) ]      x      [ rows 1..BLOCK_R, head 1 ] ... [ the same, head G ] -> votes of the tile
     expiry, statistic                [ the next rows, head 1 ] ...

What is done to every single score decides the speed. So the multipliers compare, too (`_step`); the rows that missed an
entry are collected as bits, from which first and last hit are read; and only tiles in which some row does not see some
entry are masked. Four neighbouring threads, lanes, share an entry's rows; each has bits and a statistic of its own.

A hit's reach is a product too: which entries are near which, times which entries each row hit. For that the entries are
taken in the order of their positions, and neighbouring programs share `reach` of them on either side.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from corm_batch.ops import reduction as plain
from corm_batch.ops.kernels.lanes import as_bits, by_lane, lane_sums, num_lows, top_row, unpack_bits
from corm_batch.ops.kernels.packed import places, seen_rows
from corm_batch.ops.kernels.statistics import averaged, gathered, joined
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction

_NEVER = tl.constexpr(NEVER)
_LOG2_E = tl.constexpr(1.4426950408889634)
_STEEP = tl.constexpr(2.0**100)  # any difference of two log weights times this is above 1, and no overflow
_MAX_KEY_BYTES = 128 << 10
"""Keys a program may hold; the rest of the shared memory is for queries and hits."""


def block_sizes(head_dim: int, dtype: torch.dtype, window: int | None, reach: int) -> dict[str, int]:
    """Rows and entries of one tile of scores, warps and pipeline stages.

    Args:
        head_dim: D rounded up to a power of two.
        dtype: of query and key.
        window: rows a tile may hold under the gap rule; a tile of fewer than 16 is padded. None for any number.
        reach: entries on either side that a program shares with its neighbour.

    Returns:
        The kernel's launch options. A lane's bits are summed up as a float, so there are at most 64 rows.
    """
    exact = dtype == torch.float32  # no tensor cores: registers are what is short
    entries = 64 if exact else 128
    while entries < 3 * reach:
        entries *= 2
    rows = 16 if exact or entries > 128 else 32 if reach else 64
    while window is not None and rows > max(16, window):
        rows //= 2
    return {
        "BLOCK_R": rows,
        "BLOCK_N": entries,
        "num_warps": 8 if exact or reach or head_dim > 128 else 4,
        "num_stages": 1 if exact else 2,
    }


def reduce_columns(
    reduction: Reduction,
    query_HRD: Tensor,
    lse_HR: Tensor,
    step_R: Tensor,
    entries: Entries,
    last_KN: Tensor,
    scale: float,
    softcap: float | None = None,
    *,
    gap_rule: bool,
    packing: tuple[Packing, Packing] | None = None,
) -> Entries:
    """As `ops.reduction.reduce_columns`; nothing waits for the device.

    One case takes the definition itself: float32 keys wider than 128 and a reach above 42 do not fit a program.

    Args:
        reduction: as there.
        query_HRD, entries.key: of one dtype, with any strides but a contiguous last dimension; of the query, D *
            itemsize and the strides are multiples of 16 bytes, as the hardware's tile copies demand.
        lse_HR, step_R, last_KN, scale, softcap, gap_rule: as there.
        packing: as there; with a reach, positions ascend but for holes.

    Returns:
        `entries` with a new expiry and statistic.
    """
    (num_heads, num_rows, head_dim), (num_kv_heads, num_entries) = query_HRD.shape, entries.position.shape
    if not num_rows or not num_entries:
        return entries
    rows, columns = packing or (Packing.alone(count, query_HRD.device) for count in (num_rows, num_entries))
    if reduction.gathers.rows == "last":  # a tile adds its rows up, whichever was the last
        rows = rows.newest(1)
    votes, reach = reduction.threshold is not None, reduction.reach if reduction.threshold is not None else 0
    width = max(16, triton.next_power_of_2(head_dim))
    sizes = block_sizes(width, query_HRD.dtype, reduction.window if gap_rule else None, reach)
    if sizes["BLOCK_N"] * width * query_HRD.itemsize > _MAX_KEY_BYTES:
        return plain.reduce_columns(
            reduction, query_HRD, lse_HR, step_R, entries, last_KN, scale, softcap, gap_rule=gap_rule, packing=packing
        )
    tile_rows = min(sizes["BLOCK_R"], reduction.window) if gap_rule else sizes["BLOCK_R"]
    position, last = (
        column if column.stride(1) == 1 else column.contiguous() for column in (entries.position, last_KN)
    )
    seen = _all_seen(step_R, position, last, rows, columns) if reduction.threshold == "cache" else None
    order = position.argsort(dim=-1) if reach and packing is None else None
    hole = columns.hole if reach and columns.hole is not None else (None, None)
    old, kind = (entries.expiry.contiguous(), entries.statistic.contiguous()), reduction.gathers
    expiry, statistic = map(torch.empty_like, old)
    _reduce[(triton.cdiv(columns.longest, sizes["BLOCK_N"] - 2 * reach), num_kv_heads, len(columns.sizes))](
        TensorDescriptor.from_tensor(query_HRD, [1, sizes["BLOCK_R"], width]), entries.key, lse_HR.contiguous(), step_R,
        seen, order, *hole, position, last, *old, expiry, statistic, rows.bounds, columns.bounds,
        scale, softcap, math.log2(reduction.tau), reduction.window, reach, tile_rows, num_rows, num_entries,
        *entries.key.stride()[:2], position.stride(0), last.stride(0),
        D=head_dim, WIDTH=width, G=num_heads // num_kv_heads, VOTES=votes, SPREAD=reach > 0, GAP_RULE=gap_rule,
        POWER=kind.power, HEADS=kind.heads, ROWS=kind.rows, SINCE_HIT=kind.since_hit, **sizes,
    )  # fmt: skip
    return entries._replace(expiry=expiry, statistic=statistic)


def _all_seen(step_R: Tensor, position_KN: Tensor, last_KN: Tensor, rows: Packing, columns: Packing) -> Tensor:
    """`_entries_seen` of each sequence, [K, R]."""
    seen = torch.empty(len(position_KN), len(step_R), dtype=torch.int32, device=step_R.device)
    for row, column in zip(rows.slices, columns.slices, strict=True):
        seen[:, row] = _entries_seen(step_R[row], position_KN[:, column], last_KN[:, column])
    return seen


def _entries_seen(step_R: Tensor, position_KN: Tensor, last_KN: Tensor) -> Tensor:
    """Entries each row sees, [K, R] int32: those born by then less those gone by then."""
    step = step_R.expand(len(position_KN), -1).contiguous()
    born, gone = position_KN.sort(dim=-1).values, torch.maximum(last_KN, position_KN - 1).sort(dim=-1).values
    return torch.searchsorted(born, step, right=True, out_int32=True) - torch.searchsorted(gone, step, out_int32=True)


@triton.jit(do_not_specialize=["window", "tile_rows", "all_rows", "all_entries", "position_k", "last_k"],
            do_not_specialize_on_alignment=["step", "position", "last", "num_seen"])  # fmt: skip
def _reduce(
    query: tl.tensor, key: tl.tensor, lse: tl.tensor, step: tl.tensor, num_seen: tl.tensor | None,
    order: tl.tensor | None, hole: tl.tensor | None, hole_end: tl.tensor | None, position: tl.tensor, last: tl.tensor,
    old_expiry: tl.tensor, old_statistic: tl.tensor, expiry: tl.tensor, statistic: tl.tensor, row_bounds: tl.tensor,
    entry_bounds: tl.tensor, scale: float, softcap: float | None, log_tau: float, window: int, reach: int,
    tile_rows: int, all_rows: int, all_entries: int, key_k: int, key_n: int, position_k: int, last_k: int,
    D: tl.constexpr, WIDTH: tl.constexpr, G: tl.constexpr, VOTES: tl.constexpr, SPREAD: tl.constexpr,
    GAP_RULE: tl.constexpr, POWER: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr, SINCE_HIT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """One block of entries of kv head k of sequence s, `reach` of them on either side only for their hits."""
    k, s, row = tl.program_id(1), tl.program_id(2), tl.arange(0, BLOCK_R)
    row_start, num_rows = tl.load(row_bounds + s), tl.load(row_bounds + tl.num_programs(2) + s)
    n, inside, own = places(
        entry_bounds, order, hole, hole_end, k, s, all_entries, tl.program_id(0) * (BLOCK_N - 2 * reach), reach, BLOCK_N
    )
    at = k * all_entries + n
    birth = tl.load(position + k * position_k + n, mask=inside, other=_NEVER)  # [BN]
    end = tl.load(last + k * last_k + n, mask=inside, other=-1)  # [BN]
    e = tl.load(old_expiry + at, mask=inside, other=0)  # [BN]
    m = _in_lanes(tl.load(old_statistic + at, mask=inside, other=0.0), ROWS)  # [BN, 4]
    d, real = tl.arange(0, WIDTH), (birth < _NEVER) & (num_rows > 0)
    key += k.to(tl.int64) * key_k + n.to(tl.int64)[:, None] * key_n + d[None, :]
    keys = tl.load(key, mask=real[:, None] & (d < D)[None, :], other=0.0)  # [BN, D]
    first = tl.load(step + row_start, mask=num_rows > 0, other=0)
    since, until, all_since, all_until = seen_rows(birth, end, real, first, num_rows)
    weight, missed = tl.zeros([BLOCK_N, BLOCK_R], tl.float32), tl.full([BLOCK_N, 4], -1, tl.int32)
    for i in range(tl.maximum(since, 0) // tile_rows * G, tl.cdiv(until, tile_rows) * G):
        start, h = i // G * tile_rows, k * G + i % G
        there = (row < tile_rows) & (start + row < num_rows)
        row_lse = tl.load(lse + (h * all_rows + row_start + start) + row, mask=there, other=float("inf"))  # [BR]
        log_weight = _log_weight(keys, query, h, row_start + start, row_lse, scale, softcap, WIDTH, BLOCK_R)
        t = (first + start) + row
        if (start < all_since) | (tl.minimum(start + tile_rows, num_rows) > all_until):
            seen = (birth[:, None] <= t[None, :]) & (t[None, :] <= end[:, None])
            log_weight = tl.where(seen, log_weight, float("-inf"))
        if VOTES:
            count = t
            if num_seen is not None:
                count = tl.load(num_seen + (k * all_rows + row_start + start) + row, mask=there, other=1)
            row_limit = log_tau - tl.log2(count.to(tl.float32))  # [BR]
            miss = as_bits(_step(row_limit[None, :], log_weight), BLOCK_N, BLOCK_R)
            missed = miss if G == 1 else missed & miss
        if POWER is not None:
            weight = joined(weight, tl.exp2(log_weight), G, POWER, HEADS)
        if i % G == G - 1:
            if VOTES:
                if SPREAD:
                    missed = _spread(missed, birth, end, t, reach, BLOCK_N, BLOCK_R)
                e, m, weight = _vote(missed, weight, e, m, first + start, window, GAP_RULE, SINCE_HIT, BLOCK_N, BLOCK_R)
            if POWER is None:
                m += num_lows(missed, birth, end, first + start, tl.minimum(tile_rows, num_rows - start), BLOCK_R)
            else:
                m = gathered(m, averaged(_rows(weight, ROWS, BLOCK_N, BLOCK_R), G, HEADS), ROWS)
            if G > 1:
                weight, missed = tl.zeros([BLOCK_N, BLOCK_R], tl.float32), tl.full([BLOCK_N, 4], -1, tl.int32)
    tl.store(expiry + at, tl.where(real, e, tl.load(old_expiry + at, mask=inside, other=0)), mask=own)
    found = tl.max(m, 1) if ROWS == "max" else tl.sum(m, 1)
    tl.store(statistic + at, tl.where(real, found, tl.load(old_statistic + at, mask=inside, other=0.0)), mask=own)


@triton.jit
def _log_weight(
    keys: tl.tensor, query: tl.tensor, h: int, start: int, lse: tl.tensor, scale: float, softcap: float | None,
    WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """log2 of the weights [BLOCK_N, BLOCK_R] that query head h gives, visible or not."""
    q = query.load([h, start, 0]).reshape(BLOCK_R, WIDTH)  # [BR, D]
    score = tl.dot(keys, q.T, input_precision="ieee")
    if softcap is not None:
        score = softcap - 2.0 * softcap / (1.0 + tl.exp2(score * (2.0 * _LOG2_E * scale / softcap)))
        unit = _LOG2_E
    else:
        unit = scale * _LOG2_E
    return score * unit - (lse * _LOG2_E)[None, :]


@triton.jit
def _step(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """1.0 where a > b, else 0.0: one saturating multiplication; a comparison and a selection take as long as four."""
    return tl.minimum(tl.maximum(a * _STEEP - b * _STEEP, 0.0), 1.0)


@triton.jit
def _in_lanes(old: tl.tensor, ROWS: tl.constexpr) -> tl.tensor:
    """What was gathered before, in the first lane: [BLOCK_N, 4]; nothing where the last row alone counts."""
    before = tl.where(tl.arange(0, 4)[None, :] == 0, old[:, None], 0.0)
    return tl.zeros_like(before) if ROWS == "last" else before


@triton.jit
def _rows(weight: tl.tensor, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr) -> tl.tensor:
    """What a tile's rows come to, lane by lane: [BLOCK_N, 4]."""
    if ROWS == "max":
        found = tl.max(tl.max(by_lane(weight, BLOCK_N, BLOCK_R), 3), 1)
    else:
        found = lane_sums(weight, BLOCK_N, BLOCK_R)
    return found


@triton.jit
def _spread(
    missed: tl.tensor, birth: tl.tensor, end: tl.tensor, step: tl.tensor, reach: int,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The misses of rows at `step` once every hit has hit the entries within its reach that the row sees."""
    near = tl.abs(birth[:, None] - birth[None, :]) <= reach
    hit = tl.dot(near.to(tl.int8), 1 - unpack_bits(missed, BLOCK_N, BLOCK_R)) > 0
    seen = (birth[:, None] <= step[None, :]) & (step[None, :] <= end[:, None])
    return as_bits(tl.where(hit & seen, 0.0, 1.0), BLOCK_N, BLOCK_R)


@triton.jit
def _vote(
    missed: tl.tensor, weight: tl.tensor, expiry: tl.tensor, statistic: tl.tensor, step: int, window: int,
    GAP_RULE: tl.constexpr, SINCE_HIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """A tile of rows from `step` on votes; where a hit starts anew, weights up to the last one come back as 0."""
    hits = ~missed & ((1 << (BLOCK_R // 4)) - 1)
    newest = tl.maximum(tl.max(top_row(hits), 1), -1)
    if GAP_RULE:
        oldest = tl.min(tl.where(hits != 0, top_row(hits & -hits), BLOCK_R), 1)
        newest = tl.where(step + oldest <= expiry, newest, -1)
    expiry = tl.where(newest >= 0, tl.maximum(expiry, step + newest + window), expiry)
    if SINCE_HIT:
        statistic = tl.where((newest >= 0)[:, None], 0.0, statistic)
        # Row less newest, cut to 0 or 1: what is known before and what is not stay apart: a score costs one sum.
        row = (8 * tl.arange(0, BLOCK_R // 8)[None, :, None, None] + tl.arange(0, 2)[None, None, None, :]).to(
            tl.float32
        )
        ahead = (2 * tl.arange(0, 4)[None, :] - newest[:, None]).to(tl.float32)[:, None, :, None]
        later = tl.minimum(tl.maximum(row + ahead, 0.0), 1.0)
        weight = (by_lane(weight, BLOCK_N, BLOCK_R) * later).reshape(BLOCK_N, BLOCK_R)
    return expiry, statistic, weight
