"""Dense attention on a GPU: a flash-attention forward that visits only the tiles some row sees.

    tiles of entries      a row block's list
    [full | none | part]  number of full and of partial tiles, the full ones, ..., the partial ones from the back

A first small kernel writes the lists, so the second has two plain loops that the compiler can pipeline: one without any
mask over the tiles that every row of the block sees, one with masks over the others (a diagonal, an edge of padding).
What nobody sees is either never read or thrown away before it is multiplied: it may be garbage.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from corm_batch.ops.kernels.packed import bounds_of
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER

_NEVER = tl.constexpr(NEVER)
_HEADER = tl.constexpr(2)
_LOG2_E = tl.constexpr(1.4426950408889634)


def block_sizes(head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Rows and entries of one tile of scores, warps and pipeline stages.

    Args:
        head_dim: D rounded up to a power of two.
        dtype: of query, key and value.

    Returns:
        The kernel's launch options.
    """
    if dtype == torch.float32:  # no tensor cores: registers and shared memory are what is short
        return {"BLOCK_R": 32, "BLOCK_N": 32, "num_warps": 4 if head_dim <= 128 else 8, "num_stages": 1}
    if head_dim <= 128:
        return {"BLOCK_R": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3}
    return {"BLOCK_R": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}


def dense_attention(
    query_HRD: Tensor,
    key_KND: Tensor,
    value_KND: Tensor,
    step_R: Tensor,
    first_KN: Tensor,
    last_KN: Tensor,
    scale: float,
    softcap: float | None = None,
    sink_H: Tensor | None = None,
    packing: tuple[Packing, Packing] | None = None,
) -> tuple[Tensor, Tensor]:
    """As `ops.dense.dense_attention`; nothing waits for the device.

    Args:
        query_HRD, key_KND, value_KND: of one dtype, with any strides but a contiguous last dimension; D * itemsize
            and the strides are multiples of 16 bytes, as the hardware's tile copies demand.
        step_R: as there, ascending in a sequence.
        first_KN, last_KN: as there.
        scale: as there, positive.
        softcap, sink_H, packing: as there.

    Returns:
        out [H, R, D] laid out as the query, lse [H, R] float32. A row that sees nothing has out 0 and lse -inf, or the
        sink's logit.
    """
    (num_heads, num_rows, head_dim), (num_kv_heads, num_entries, _) = query_HRD.shape, key_KND.shape
    out = torch.empty_like(query_HRD)
    lse = torch.empty(num_heads, num_rows, dtype=torch.float32, device=out.device)
    if not num_rows or not num_entries:
        return out.zero_(), lse.copy_(sink_H[:, None]) if sink_H is not None else lse.fill_(-torch.inf)
    width = max(16, triton.next_power_of_2(head_dim))
    sizes = block_sizes(width, query_HRD.dtype)
    rows, tile = [1, sizes["BLOCK_R"], width], [1, sizes["BLOCK_N"], width]
    asking, asked = packing or (None, None)
    bounds = (None, None) if asking is None or asked is None else (asking.bounds, asked.bounds)
    num_blocks = triton.cdiv(num_rows if asking is None else asking.longest, rows[1])
    num_tiles = triton.cdiv(num_entries if asked is None else asked.longest, tile[1])
    num_sequences = 1 if asking is None else len(asking.sizes)
    # One more than a full list, for the loops read one tile ahead.
    lists = torch.empty(
        num_sequences, num_kv_heads, num_blocks, _HEADER.value + num_tiles + 1, dtype=torch.int32, device=out.device
    )
    first, last = (column if column.stride(1) == 1 else column.contiguous() for column in (first_KN, last_KN))
    _list_tiles[(num_kv_heads, num_blocks, num_sequences)](
        lists, step_R, first, last, first.stride(0), last.stride(0), *bounds, num_rows, num_entries, num_tiles,
        BLOCK_R=rows[1], BLOCK_N=tile[1], TILES=4096 // tile[1],
    )  # fmt: skip
    _attend[(num_heads * num_blocks, num_sequences)](
        TensorDescriptor.from_tensor(query_HRD, rows), TensorDescriptor.from_tensor(key_KND, tile),
        TensorDescriptor.from_tensor(value_KND, tile), TensorDescriptor.from_tensor(out, rows), out, *out.stride()[:2],
        lse, lists, step_R, first, last, first.stride(0), last.stride(0), *bounds, sink_H, scale, softcap,
        num_heads, num_heads // num_kv_heads, num_rows, num_entries, num_tiles, D=head_dim, WIDTH=width, **sizes,
    )  # fmt: skip
    return out, lse


@triton.jit(do_not_specialize=["first_k", "last_k", "num_rows", "num_entries", "num_tiles"],
            do_not_specialize_on_alignment=["step", "first", "last"])  # fmt: skip
def _list_tiles(
    lists: tl.tensor, step: tl.tensor, first: tl.tensor, last: tl.tensor, first_k: int, last_k: int,
    row_bounds: tl.tensor | None, entry_bounds: tl.tensor | None, num_rows: int, num_entries: int, num_tiles: int,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr,
) -> None:  # fmt: skip
    """Which tiles of kv head k every row of block b of sequence s sees, and which only some do."""
    k, b, s = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row_start, num_rows = bounds_of(row_bounds, s, tl.num_programs(2), num_rows)
    entry_start, num_entries = bounds_of(entry_bounds, s, tl.num_programs(2), num_entries)
    lists += ((s * tl.num_programs(0) + k) * tl.num_programs(1) + b).to(tl.int64) * (_HEADER + num_tiles + 1)
    there = b * BLOCK_R < num_rows
    oldest = tl.load(step + row_start + b * BLOCK_R, mask=there, other=0)
    newest = tl.load(step + row_start + tl.minimum((b + 1) * BLOCK_R, num_rows) - 1, mask=there, other=0)
    num_full, num_partial = 0, 0
    for start in range(0, tl.where(there, tl.cdiv(num_entries, BLOCK_N), 0), TILES):
        tile = start + tl.arange(0, TILES)
        n = tile[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        begin = tl.load(first + k * first_k + entry_start + n, mask=n < num_entries, other=_NEVER)  # [BN]
        end = tl.load(last + k * last_k + entry_start + n, mask=n < num_entries, other=-1)  # [BN]
        full = tl.min(((begin <= oldest) & (end >= newest)).to(tl.int32), axis=1)
        partial = tl.max(((begin <= newest) & (end >= oldest)).to(tl.int32), axis=1) - full
        tl.store(lists + _HEADER + num_full + tl.cumsum(full, 0) - 1, tile, mask=full == 1)
        tl.store(lists + _HEADER + num_tiles - num_partial - tl.cumsum(partial, 0), tile, mask=partial == 1)
        num_full += tl.sum(full, 0)
        num_partial += tl.sum(partial, 0)
    tl.store(lists, num_full)
    tl.store(lists + 1, num_partial)


@triton.jit(do_not_specialize=["first_k", "last_k", "all_rows", "num_entries", "num_tiles"],
            do_not_specialize_on_alignment=["out", "row_out", "step", "first", "last"])  # fmt: skip
def _attend(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, out: tl.tensor, row_out: tl.tensor, out_h: int, out_r: int,
    lse: tl.tensor, lists: tl.tensor, step: tl.tensor, first: tl.tensor, last: tl.tensor, first_k: int, last_k: int,
    row_bounds: tl.tensor | None, entry_bounds: tl.tensor | None,
    sink: tl.tensor | None, scale: float, softcap: float | None,
    num_heads: int, group: int, all_rows: int, num_entries: int, num_tiles: int,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """One block of rows of one query head; heads next to each other share their keys, the longest rows go first."""
    num_blocks, s = tl.num_programs(0) // num_heads, tl.program_id(1)
    h, b = tl.program_id(0) % num_heads, num_blocks - 1 - tl.program_id(0) // num_heads
    row_start, num_rows = bounds_of(row_bounds, s, tl.num_programs(1), all_rows)
    entry_start, num_entries = bounds_of(entry_bounds, s, tl.num_programs(1), num_entries)
    if b * BLOCK_R >= num_rows:
        return
    k = h // group
    r = b * BLOCK_R + tl.arange(0, BLOCK_R)
    t = tl.load(step + row_start + r, mask=r < num_rows, other=0)  # [BR]
    first += k * first_k + entry_start
    last += k * last_k + entry_start
    lists += ((s * (num_heads // group) + k) * num_blocks + b).to(tl.int64) * (_HEADER + num_tiles + 1)
    q = query.load([h, row_start + b * BLOCK_R, 0]).reshape(BLOCK_R, WIDTH)  # [BR, D]
    top = tl.full([BLOCK_R], -1e30, tl.float32)  # finite: a row that has seen nothing yet stays a number
    total = tl.zeros([BLOCK_R], tl.float32)
    if sink is not None:
        logit = tl.load(sink + h).to(tl.float32) * _LOG2_E
        top = tl.maximum(top, logit)
        total += tl.exp2(logit - top)
    mixed = tl.zeros([BLOCK_R, WIDTH], tl.float32)
    mixed, top, total = _visit(
        mixed, top, total, q, t, key, value, k, lists + _HEADER, 1, tl.load(lists), first, last, entry_start,
        num_entries, scale, softcap, WIDTH, BLOCK_N, False,
    )  # fmt: skip
    mixed, top, total = _visit(
        mixed, top, total, q, t, key, value, k, lists + _HEADER + num_tiles - 1, -1, tl.load(lists + 1), first, last,
        entry_start, num_entries, scale, softcap, WIDTH, BLOCK_N, True,
    )  # fmt: skip
    mixed = (mixed / tl.where(total > 0, total, 1.0)[:, None]).to(q.dtype)
    if (b + 1) * BLOCK_R <= num_rows:
        out.store([h, row_start + b * BLOCK_R, 0], mixed.reshape(1, BLOCK_R, WIDTH))
    else:  # behind its last row another sequence's may stand
        d = tl.arange(0, WIDTH)
        place = row_out + h * out_h + (row_start + r).to(tl.int64)[:, None] * out_r + d[None, :]
        tl.store(place, mixed, mask=(r < num_rows)[:, None] & (d < D)[None, :])
    tl.store(lse + h * all_rows + row_start + r, (top + tl.log2(total)) / _LOG2_E, mask=r < num_rows)


@triton.jit
def _visit(
    mixed: tl.tensor, top: tl.tensor, total: tl.tensor, q: tl.tensor, t: tl.tensor,
    key: tl.tensor, value: tl.tensor, k: int,
    tiles: tl.tensor, direction: int, count: int, first: tl.tensor, last: tl.tensor, entry_start: int, num_entries: int,
    scale: float, softcap: float | None, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Let the rows see `count` listed tiles: the online softmax in powers of two (FlashAttention, arXiv 2205.14135)."""
    unit = scale * _LOG2_E if softcap is None else softcap * _LOG2_E
    tile = tl.load(tiles)
    for _ in tl.range(0, count, num_stages=1 if MASKED else None):  # a few tiles are not worth a pipeline
        start = tile * BLOCK_N
        tiles += direction
        tile = tl.load(tiles)  # the next one, read long before it is needed
        keys = key.load([k, entry_start + start, 0]).reshape(BLOCK_N, WIDTH)  # [BN, D]
        score = tl.dot(q, keys.T, input_precision="ieee")
        if softcap is not None:
            score = 1.0 - 2.0 / (1.0 + tl.exp2(score * (2.0 * _LOG2_E * scale / softcap)))  # tanh
        values = value.load([k, entry_start + start, 0]).reshape(BLOCK_N, WIDTH)  # [BN, D]
        if MASKED:
            n = start + tl.arange(0, BLOCK_N)
            begin = tl.load(first + n, mask=n < num_entries, other=_NEVER)  # [BN]
            end = tl.load(last + n, mask=n < num_entries, other=-1)  # [BN]
            score = tl.where((begin[None, :] <= t[:, None]) & (t[:, None] <= end[None, :]), score, float("-inf"))
            values = tl.where((begin <= tl.max(t, 0))[:, None], values, 0.0)
        new_top = tl.maximum(top, tl.max(score, 1) * unit)
        weight = tl.exp2(score * unit - new_top[:, None])
        decay = tl.exp2(top - new_top)
        total = total * decay + tl.sum(weight, 1)
        mixed = tl.dot(weight.to(values.dtype), values, mixed * decay[:, None], input_precision="ieee")
        top = new_top
    return mixed, top, total
