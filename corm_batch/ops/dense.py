"""Dense attention in float32: the definition every faster path is held against, and the path for what they lack.

Works through the query rows in tiles, so that no more than one tile of scores ever exists, and of the entries that some
row of it sees alone, where these are few.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from corm_batch.ops.packing import Packing

TILE_SCORES = 1 << 23
"""Scores computed at once: 32 MiB of float32, small enough for a CPU cache hierarchy to help."""


def row_tiles(num_rows: int, num_heads: int, num_entries: int, at_most: int = 256) -> Iterator[slice]:
    """Consecutive slices over `num_rows` rows whose scores stay within TILE_SCORES."""
    tile = max(1, min(at_most, TILE_SCORES // max(1, num_heads * num_entries)))
    for start in range(0, num_rows, tile):
        yield slice(start, min(start + tile, num_rows))


def soft_capped(scores: Tensor, softcap: float | None) -> Tensor:
    """softcap * tanh(s / softcap), as Gemma 2 bounds its logits; unchanged without a softcap. Any shape."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def attention_scores(query_HRD: Tensor, key_KND: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Scaled logits, soft-capped where the model does so.

    Returns:
        [K, G, R, N] float32.
    """
    num_heads, num_rows, _ = query_HRD.shape
    num_kv_heads = key_KND.shape[0]
    query = query_HRD.float().reshape(num_kv_heads, -1, query_HRD.shape[-1])
    scores = torch.matmul(query * scale, key_KND.float().transpose(-1, -2))
    scores = soft_capped(scores, softcap)
    return scores.view(num_kv_heads, num_heads // num_kv_heads, num_rows, -1)


def masked_attention(
    scores_KGRN: Tensor, visible_KRN: Tensor, value_KND: Tensor, sink_H: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax over the visible entries and the weighted values.

    Args:
        scores_KGRN: float32 logits.
        visible_KRN: bool; every row must see at least one entry or a sink.
        value_KND: values.
        sink_H: a logit per query head that takes part in the softmax and has no value (gpt-oss); None for none.

    Returns:
        out [H, R, D] float32 and lse [H, R] float32, the log of the softmax denominator, sink included.
    """
    scores = scores_KGRN.masked_fill(~visible_KRN[:, None], -torch.inf)
    lse_KGR = torch.logsumexp(scores, dim=-1)
    if sink_H is not None:
        lse_KGR = torch.logaddexp(lse_KGR, sink_H.float().view(*lse_KGR.shape[:2], 1))
    weights = torch.exp(scores - lse_KGR[..., None])
    num_kv_heads, group, num_rows, num_entries = weights.shape
    out = torch.matmul(weights.view(num_kv_heads, group * num_rows, num_entries), value_KND.float())
    return out.view(num_kv_heads * group, num_rows, -1), lse_KGR.reshape(-1, num_rows)


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
    """Attention where the row at step t sees the entries with first <= t <= last.

    Args:
        query_HRD, key_KND, value_KND: any floating dtype.
        step_R: int32 step of each row.
        first_KN, last_KN: int32, the steps between which each entry is seen: its position and its expiry.
        scale, softcap, sink_H: as in `attention_scores` and `masked_attention`.
        packing: where the rows, and where the entries, of several sequences stand, of which each sees its own alone;
            every row is of one. None: all are of one sequence.

    Returns:
        out [H, R, D] in the query's dtype, lse [H, R] float32.
    """
    outs, lses = [query_HRD[:, :0]], [query_HRD[:, :0, 0].float()]  # there may be no rows
    if packing is not None:
        for rows, own in zip(*(sequences.slices for sequences in packing), strict=True):
            entries = key_KND[:, own], value_KND[:, own], step_R[rows], first_KN[:, own], last_KN[:, own]
            out, lse = dense_attention(query_HRD[:, rows], *entries, scale, softcap, sink_H)
            outs.append(out)
            lses.append(lse)
        return torch.cat(outs, dim=1), torch.cat(lses, dim=1)
    for rows in row_tiles(query_HRD.shape[1], query_HRD.shape[0], key_KND.shape[1]):
        step = step_R[rows][:, None]
        seen_N = ((first_KN <= step.max()) & (step.min() <= last_KN)).any(dim=0)
        few = 4 * int(seen_N.sum()) < 3 * len(seen_N)
        key, value, first, last = (one[:, seen_N] if few else one for one in (key_KND, value_KND, first_KN, last_KN))
        scores = attention_scores(query_HRD[:, rows], key, scale, softcap)
        visible = (first[:, None] <= step) & (step <= last[:, None])
        out, lse = masked_attention(scores, visible, value, sink_H)
        outs.append(out.to(query_HRD.dtype))
        lses.append(lse)
    return torch.cat(outs, dim=1), torch.cat(lses, dim=1)
