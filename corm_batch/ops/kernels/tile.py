"""Entries of a list in a decode step, in Triton: seen by the queries that fill a tile of a matrix product.

What is stored is read as words of PACK numbers, which become as many tiles in registers: from shared memory a product
can take tiles of 16 bits alone. Scores are the sum of products over the words' first numbers, their second and so on;
values of each are columns of their own, kept apart to the end. Where parts of an entry have factors of their own,
NUM_FACTORS of them, a head has a row for each, with that part's numbers of the query and zeros: factors multiply scores
and weights, never tiles, and a tile has rows to spare.

Where lists have a basis, a key is rebuilt before it is seen: two products of matrices make the first and the second
numbers of its pairs, which are turned by its position, and queries come as two tiles alike. Values stay as they are
stored: what is made of them is widened once a step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from corm_batch.ops.kernels.forms import load_words, sine_and_cosine
from corm_batch.ops.kernels.lists import place_of


@triton.jit
def see(
    begin: tl.tensor, end: tl.tensor, q: tl.tuple, now: tl.tensor, head: tl.tensor, there: tl.tensor, top: tl.tensor,
    ids: tl.tensor, key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor, scales: tl.tuple,
    basis: tl.tuple | None, k: tl.tensor, logits: tl.tensor | None, num_slots: int, scale: float,
    softcap: float | None, early: int | None, recent: int | None, STEPS: tl.constexpr, COUNTS: tl.constexpr,
    C: tl.constexpr, PAGE: tl.constexpr, W: tl.constexpr, D: tl.constexpr, BLOCK_G: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, H: tl.constexpr, BLOCK_H: tl.constexpr,
    PACK: tl.constexpr, UNPACK: tl.constexpr, FACTORS: tl.constexpr, NUM_FACTORS: tl.constexpr,
) -> tuple[tl.tuple, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Entries from `begin`, where a page begins, to `end`, seen by the queries of some heads at step `now`, with STEPS
    [BG] steps, one for each. The first `early` positions are not seen,
    nor the newest `recent` of a query, where these are given.

    Returns:
        Weighted values, PACK tiles [rows, BLOCK_D]; of each head the highest score, not below `top`, the sum of its
        weights relative to that and, where COUNTS, how many entries it sees, all [BG].
    """
    n = tl.arange(0, BLOCK_N)
    if basis is not None:
        up, turns = _halves_of(basis[0], basis[1], k, W, H, BLOCK_W, BLOCK_H)
    outs: tl.tuple = ()
    for _ in tl.static_range(PACK):
        outs += (tl.zeros([NUM_FACTORS * BLOCK_G, BLOCK_D], tl.float32),)
    total, count = tl.zeros([BLOCK_G, BLOCK_N], tl.float32), tl.zeros([BLOCK_G, BLOCK_N], tl.int32)  # summed up last
    following = tl.load(ids + (begin + n) // C, mask=begin + n < end, other=0)
    for start in range(begin, end, BLOCK_N):
        index = start + n
        inside = index < end
        # ids of pages are loaded a block ahead, so that entries are one load away, not two
        page, following = following, tl.load(ids + (index + BLOCK_N) // C, mask=index + BLOCK_N < end, other=0)
        within = n % C if BLOCK_N % C == 0 else index % C  # the former is one for all blocks
        place = place_of(page, within, PAGE)
        keys = UNPACK(load_words(key, page, within, inside, W // PACK, PAGE, BLOCK_W), q[0].dtype)  # [BN, BLOCK_W] each
        if basis is not None:
            keys = _turned(keys[0], up, turns, tl.load(position + place, mask=inside, other=0))  # [BN, BLOCK_H] each
        s = _scores(q, keys, FACTORS(scales, 0, place, inside), scale, softcap, BLOCK_G, BLOCK_N)  # [BG, BN]
        born = tl.load(position + place, mask=inside, other=0)  # [BN]
        last = tl.load(expiry + place, mask=inside, other=0)  # [BN]
        if STEPS:
            visible = inside[None, :] & (born[None, :] <= now[:, None]) & (now[:, None] <= last[None, :])
        else:
            visible = (inside & (born <= now) & (now <= last))[None, :]
        if early is not None:
            until = now[:, None] - recent if STEPS else now - recent
            visible = visible & (born > early)[None, :] & (born[None, :] <= until)
        s = tl.where(visible, s, float("-inf"))
        if logits is not None:
            tl.store(logits + head[:, None] * num_slots + index[None, :], s, mask=there[:, None] & inside[None, :])
        higher = tl.maximum(top, tl.max(s, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing visible yet: -inf - -inf is no number
        p, shrink = tl.exp(s - base[:, None]), tl.exp(top - base)
        total, top = total * shrink[:, None] + p, higher
        if COUNTS:
            count += (s > float("-inf")).to(tl.int32)
        values = UNPACK(load_words(value, page, within, inside, D // PACK, PAGE, BLOCK_D), q[0].dtype)  # [BN, BD] each
        outs = _weighted(outs, each_row(shrink, NUM_FACTORS), p, values, FACTORS(scales, 1, place, inside), len(scales))
    return outs, top, tl.sum(total, axis=1), tl.sum(count, axis=1)


@triton.jit
def _turned(stored: tl.tensor, up: tl.tuple, turns: tl.tensor, position: tl.tensor) -> tl.tuple:
    """The first and the second numbers [BN, BLOCK_H] of keys' pairs, of what is stored of them [BN, BLOCK_W]."""
    first = tl.dot(stored, up[0], input_precision="ieee")
    second = tl.dot(stored, up[1], input_precision="ieee")
    angle = ((position - 1)[:, None] * turns[None, :]).to(tl.float32) * 1.4629180792671596e-09  # 2 pi / 2^32
    sine, cosine = sine_and_cosine(angle)
    return (first * cosine - second * sine).to(stored.dtype), (second * cosine + first * sine).to(stored.dtype)


@triton.jit
def _halves_of(
    halves: tl.tuple, turns: tl.tensor, k: tl.tensor, W: tl.constexpr, H: tl.constexpr, BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
) -> tuple[tl.tuple, tl.tensor]:  # fmt: skip
    """What makes a head's keys of what is stored of them, twice [BLOCK_W, BLOCK_H], and turns [BLOCK_H] int32."""
    w, h = tl.arange(0, BLOCK_W)[:, None], tl.arange(0, BLOCK_H)
    at, there = k * W * H + w * H + h[None, :], (w < W) & (h < H)[None, :]
    first, second = tl.load(halves[0] + at, mask=there, other=0.0), tl.load(halves[1] + at, mask=there, other=0.0)
    return (first, second), tl.load(turns + h, mask=h < H, other=0)


@triton.jit
def _half_queries_of(
    query: tl.tensor, head: tl.tensor, there: tl.tensor, H: tl.constexpr, BLOCK_H: tl.constexpr
) -> tl.tuple:
    """The queries of some heads as keys are rebuilt: two tiles [BG, BLOCK_H]."""
    h = tl.arange(0, BLOCK_H)[None, :]
    at, mine = head[:, None] * (2 * H) + h, there[:, None] & (h < H)
    return tl.load(query + at, mask=mine, other=0.0), tl.load(query + at + H, mask=mine, other=0.0)


@triton.jit
def _scores(
    q: tl.tuple, keys: tl.tuple, factors: tl.tuple, scale: float, softcap: float | None, BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """[BG, BN] of queries and keys, both in as many tiles."""
    s = tl.zeros([q[0].shape[0], BLOCK_N], tl.float32)
    for i in tl.static_range(len(q)):
        s = tl.dot(q[i], tl.trans(keys[i]), s, input_precision="ieee")
    if len(factors) > 1:
        s = tl.sum(tl.reshape(s, [len(factors), BLOCK_G, BLOCK_N]) * (_by_part(factors) * scale), axis=0)
    else:
        s = s * (factors[0] * scale)[None, :]
    if softcap is not None:
        s = softcap - 2 * softcap / (tl.exp(2 * s / softcap) + 1)  # softcap * tanh(s / softcap)
    return s


@triton.jit
def _weighted(
    outs: tl.tuple, shrink: tl.tensor, p: tl.tensor, values: tl.tuple, factors: tl.tuple, num_scales: tl.constexpr
) -> tl.tuple:
    """Tiles [rows, BD] of weighted values, shrunk, and a block's weights [BG, BN] of more of them."""
    most = 1.0
    if num_scales > 0:  # relative to the block's largest factor: float16 has no number for a small one
        most = tl.max(factors[0], axis=0)
        for i in tl.static_range(1, len(factors)):
            most = tl.maximum(most, tl.max(factors[i], axis=0))
        if len(factors) > 1:
            p = tl.reshape(p[None, :, :] * (_by_part(factors) / most), [shrink.shape[0], p.shape[1]])
        else:
            p = p * (factors[0] / most)[None, :]
    p = p.to(values[0].dtype)
    new: tl.tuple = ()
    for i in tl.static_range(len(values)):
        before = outs[i] * shrink[:, None]
        if num_scales > 0:
            new += (before + tl.dot(p, values[i], input_precision="ieee") * most,)
        else:
            new += (tl.dot(p, values[i], before, input_precision="ieee"),)
    return new


@triton.jit
def _by_part(factors: tl.tuple) -> tl.tensor:
    """The factors of entries' parts, [BN] each, as [parts, 1, BN]."""
    part, by_part = tl.arange(0, len(factors))[:, None, None], factors[0][None, None, :]
    for i in tl.static_range(1, len(factors)):
        by_part = tl.where(part < i, by_part, factors[i][None, None, :])
    return by_part


@triton.jit
def each_row(x: tl.tensor, NUM_FACTORS: tl.constexpr) -> tl.tensor:
    """What heads have, [BG], as their rows have it: part by part all heads."""
    if NUM_FACTORS == 1:
        rows = x
    else:
        rows = tl.reshape(tl.broadcast_to(x[None, :], [NUM_FACTORS, x.shape[0]]), [NUM_FACTORS * x.shape[0]])
    return rows


@triton.jit
def part_of(
    head: tl.tensor, there: tl.tensor, i: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, PACK: tl.constexpr,
    NUM_FACTORS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Where the i-th numbers of words are in what heads [BG] have of D numbers each, as rows have them: offsets
    [rows, BLOCK], and which of these a row has."""
    column, row = tl.arange(0, BLOCK) * PACK + i, tl.arange(0, NUM_FACTORS * head.shape[0])
    mine = (column * NUM_FACTORS // D)[None, :] == (row // head.shape[0])[:, None]
    mine = mine & each_row(there, NUM_FACTORS)[:, None] & (column < D)[None, :]
    return each_row(head, NUM_FACTORS)[:, None] * D + column[None, :], mine


@triton.jit
def queries_of(
    query: tl.tensor, head: tl.tensor, there: tl.tensor, basis: tl.tuple | None, num_scales: tl.constexpr,
    W: tl.constexpr, BLOCK_W: tl.constexpr, H: tl.constexpr, BLOCK_H: tl.constexpr, PACK: tl.constexpr,
    NUM_FACTORS: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """The queries of some heads, in the type of its products: PACK tiles [rows, BLOCK_W], or in a basis two [BG,
    BLOCK_H], as keys are rebuilt."""
    qs: tl.tuple = ()
    if basis is not None:
        qs = _half_queries_of(query, head, there, H, BLOCK_H)
    else:
        for i in tl.static_range(PACK):
            at, mine = part_of(head, there, i, W, BLOCK_W, PACK, NUM_FACTORS)
            q = tl.load(query + at, mask=mine, other=0.0)
            if num_scales > 0 and q.dtype == tl.bfloat16:
                # 8 bits become float16 in one instruction for two numbers, and bfloat16 in three; a query fits both.
                q = tl.clamp(q.to(tl.float32), -65504.0, 65504.0).to(tl.float16)
            qs += (q,)
    return qs
