"""Column reduction on a GPU: each program keeps a few entries' votes in registers while the query rows go by.

    entries of one kv head            rows, oldest first; the heads of the group one after the other
    [ key (BLOCK_N x D) ]      x      [ rows 1..BLOCK_R, head 1 ] ... [ the same, head G ] -> votes of the tile
     expiry, mass                     [ the next rows, head 1 ] ...

A hit's reach is a product too: which entries are near which, times which entries each row hit. For that the entries are
taken in the order of their positions, and neighbouring programs share `reach` of them on either side.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from corm_batch.ops import reduction as plain
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction

_NEVER = tl.constexpr(NEVER)
_LOG2_E = tl.constexpr(1.4426950408889634)
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
        The kernel's launch options.
    """
    exact = dtype == torch.float32  # no tensor cores: registers are what is short
    entries = 64 if exact else 128
    while entries < 3 * reach:
        entries *= 2
    rows = 16 if exact or entries > 128 else 32
    while window is not None and rows > max(16, window):
        rows //= 2
    return {
        "BLOCK_R": rows,
        "BLOCK_N": entries,
        "num_warps": 8 if exact or reach or head_dim > 128 else 4,
        "num_stages": 1 if exact else 3 if entries < 256 else 2,
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
) -> Entries:
    """As `ops.reduction.reduce_columns`; nothing waits for the device.

    One case takes the definition itself: float32 keys wider than 128 and a reach above 42 do not fit a program.

    Args:
        reduction: as there.
        query_HRD, entries.key: of one dtype, with any strides but a contiguous last dimension; of the query, D *
            itemsize and the strides are multiples of 16 bytes, as the hardware's tile copies demand.
        lse_HR, step_R, last_KN, scale, softcap, gap_rule: as there.

    Returns:
        `entries` with a new expiry and mass.
    """
    (num_heads, num_rows, head_dim), (num_kv_heads, num_entries) = query_HRD.shape, entries.position.shape
    if not num_rows or not num_entries:
        return entries
    position, last = entries.position.contiguous(), last_KN.contiguous()
    votes, reach = reduction.threshold is not None, reduction.reach if reduction.threshold is not None else 0
    width = max(16, triton.next_power_of_2(head_dim))
    sizes = block_sizes(width, query_HRD.dtype, reduction.window if gap_rule else None, reach)
    if sizes["BLOCK_N"] * width * query_HRD.itemsize > _MAX_KEY_BYTES:
        return plain.reduce_columns(
            reduction, query_HRD, lse_HR, step_R, entries, last_KN, scale, softcap, gap_rule=gap_rule
        )
    tile_rows = min(sizes["BLOCK_R"], reduction.window) if gap_rule else sizes["BLOCK_R"]
    count = _entries_seen(step_R, position, last) if reduction.threshold == "cache" else step_R
    order = position.argsort(dim=-1) if reach else None
    expiry, mass = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (entries.expiry, entries.mass))
    _reduce[(triton.cdiv(num_entries, sizes["BLOCK_N"] - 2 * reach), num_kv_heads)](
        TensorDescriptor.from_tensor(query_HRD, [1, sizes["BLOCK_R"], width]), entries.key, lse_HR.contiguous(), step_R,
        count, order, position, last, entries.expiry.contiguous(), entries.mass.contiguous(), expiry, mass,
        scale, softcap, reduction.tau, reduction.window, reach, tile_rows, num_rows, num_entries,
        *entries.key.stride()[:2], num_rows if count.dim() == 2 else 0,
        D=head_dim, WIDTH=width, G=num_heads // num_kv_heads, VOTES=votes, GAP_RULE=gap_rule, **sizes,
    )  # fmt: skip
    return entries._replace(expiry=expiry, mass=mass)


def _entries_seen(step_R: Tensor, position_KN: Tensor, last_KN: Tensor) -> Tensor:
    """Entries each row sees, [K, R] int32: those born by then less those gone by then."""
    step = step_R.expand(len(position_KN), -1).contiguous()
    born, gone = position_KN.sort(dim=-1).values, torch.maximum(last_KN, position_KN - 1).sort(dim=-1).values
    return torch.searchsorted(born, step, right=True, out_int32=True) - torch.searchsorted(gone, step, out_int32=True)


@triton.jit
def _reduce(
    query: tl.tensor, key: tl.tensor, lse: tl.tensor, step: tl.tensor, count: tl.tensor, order: tl.tensor,
    position: tl.tensor, last: tl.tensor, old_expiry: tl.tensor, old_mass: tl.tensor, expiry: tl.tensor,
    mass: tl.tensor, scale: float, softcap: float | None, tau: float, window: int, reach: int, tile_rows: int,
    num_rows: int, num_entries: int, key_k: int, key_n: int, count_k: int,
    D: tl.constexpr, WIDTH: tl.constexpr, G: tl.constexpr, VOTES: tl.constexpr, GAP_RULE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """One block of entries of kv head k, `reach` of them on either side only for their hits."""
    k, offset = tl.program_id(1), tl.arange(0, BLOCK_N)
    n = tl.program_id(0) * (BLOCK_N - 2 * reach) - reach + offset
    inside = (n >= 0) & (n < num_entries)
    own = inside & (offset >= reach) & (offset < BLOCK_N - reach)
    if order is not None:
        n = tl.load(order + k * num_entries + n, mask=inside, other=0).to(tl.int32)
    at = k * num_entries + n
    birth = tl.load(position + at, mask=inside, other=_NEVER)
    end = tl.load(last + at, mask=inside, other=-1)
    e = tl.load(old_expiry + at, mask=inside, other=0)
    m = tl.load(old_mass + at, mask=inside, other=0.0)
    d = tl.arange(0, WIDTH)
    keys = tl.load(
        key + k.to(tl.int64) * key_k + n.to(tl.int64)[:, None] * key_n + d[None, :],
        mask=(birth < _NEVER)[:, None] & (d < D)[None, :], other=0.0,
    )  # fmt: skip
    # Rows from the first that sees anything here to the last.
    oldest, newest = tl.min(birth, 0), tl.max(end, 0)
    since, until = 0, 0
    for start in range(0, num_rows, 1024):
        r = start + tl.arange(0, 1024)
        t = tl.load(step + r, mask=r < num_rows, other=_NEVER)
        since += tl.sum((t < oldest).to(tl.int32), 0)
        until += tl.sum((t <= newest).to(tl.int32), 0)
    first_tile, num_tiles = since // tile_rows, tl.cdiv(tl.minimum(until, num_rows), tile_rows)
    best = tl.full([BLOCK_N, BLOCK_R], float("-inf"), tl.float32)
    weight = tl.zeros([BLOCK_N, BLOCK_R], tl.float32)
    for i in range(first_tile * G, num_tiles * G):
        start, h = i // G * tile_rows, k * G + i % G
        r = start + tl.arange(0, BLOCK_R)
        there = (tl.arange(0, BLOCK_R) < tile_rows) & (r < num_rows)
        log_weight = _log_weight(keys, query, h, start, lse + h * num_rows + r, there, scale, softcap, WIDTH, BLOCK_R)
        best = tl.maximum(best, log_weight) if G > 1 else log_weight
        weight = weight + tl.exp2(log_weight) if G > 1 else tl.exp2(log_weight)
        if i % G == G - 1:
            t = tl.load(step + r, mask=there, other=-1)
            n_seen = tl.load(count + k * count_k + r, mask=there, other=1)
            e, m = _vote(best, weight, t, n_seen, birth, end, e, m, tau, window, reach, order, G, VOTES, GAP_RULE)
            if G > 1:
                best = tl.full([BLOCK_N, BLOCK_R], float("-inf"), tl.float32)
                weight = tl.zeros([BLOCK_N, BLOCK_R], tl.float32)
    tl.store(expiry + at, e, mask=own)
    tl.store(mass + at, m, mask=own)


@triton.jit
def _log_weight(
    keys: tl.tensor, query: tl.tensor, h: int, start: int, lse: tl.tensor, there: tl.tensor, scale: float,
    softcap: float | None, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """log2 of the weights [BLOCK_N, BLOCK_R] that query head h gives, visible or not."""
    q = query.load([h, start, 0]).reshape(BLOCK_R, WIDTH)
    score = tl.dot(keys, q.T, input_precision="ieee")
    if softcap is not None:
        score = softcap - 2.0 * softcap / (1.0 + tl.exp2(score * (2.0 * _LOG2_E * scale / softcap)))
        unit = _LOG2_E
    else:
        unit = scale * _LOG2_E
    return score * unit - (tl.load(lse, mask=there, other=0.0) * _LOG2_E)[None, :]


@triton.jit
def _vote(
    best: tl.tensor, weight: tl.tensor, t: tl.tensor, n_seen: tl.tensor, birth: tl.tensor, end: tl.tensor,
    expiry: tl.tensor, mass: tl.tensor, tau: float, window: int, reach: int, order: tl.tensor,
    G: tl.constexpr, VOTES: tl.constexpr, GAP_RULE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """One tile of rows, at the steps t, votes: the group's largest weights decide on hits, their sum is the mass."""
    counts = (birth[:, None] <= t[None, :]) & (t[None, :] <= end[:, None])
    if VOTES:
        hit = counts & (best >= tl.log2(tau / n_seen.to(tl.float32))[None, :])
        if order is not None:
            near = tl.abs(birth[:, None] - birth[None, :]) <= reach
            hit = counts & (tl.dot(near.to(tl.int8), hit.to(tl.int8)) > 0)
        newest = tl.max(tl.where(hit, t[None, :], 0), axis=1)
        if GAP_RULE:
            oldest = tl.min(tl.where(hit, t[None, :], _NEVER), axis=1)
            newest = tl.where(oldest <= expiry, newest, 0)
        expiry = tl.where(newest > 0, tl.maximum(expiry, newest + window), expiry)
        mass = tl.where(newest > 0, 0.0, mass)
        counts = counts & (t[None, :] > newest[:, None])
    return expiry, mass + tl.sum(tl.where(counts, weight, 0.0), axis=1) / G
