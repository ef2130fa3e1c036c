"""Decode attention: one query a sequence against its own ragged pages, and the vote that query casts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from corm_batch.ops.dense import soft_capped
from corm_batch.ops.form import Form
from corm_batch.ops.pages import Entries, Lists, Pages, read_pages, update_pages
from corm_batch.ops.reduction import Reduction, hit_rows


class Distant(NamedTuple):
    """Entries that queries see beside those of their own lists: of an earlier layer, with values of their own.

    Attributes:
        pages, lists: where they are; keys are that layer's.
        first, recent: a query at step t sees the positions above `first` up to t - `recent`, of what that layer sees.
    """

    pages: Pages
    lists: Lists
    first: int
    recent: int


def decode_attention(
    pages: Pages,
    lists: Lists,
    query_SHD: Tensor,
    step_S: Tensor,
    reduction: Reduction | None,
    scale: float,
    softcap: float | None = None,
    sink_H: Tensor | None = None,
    leader_S: Tensor | None = None,
    distant: Distant | None = None,
    *,
    form: Form,
) -> Tensor:
    """Attend to every entry whose expiry has not passed; then let the query's hits extend expiries in the pages.

    Args:
        pages: the pool; expiry and statistic are changed in place when there is a reduction.
        lists: where the rows' entries are, the query's own included. Rows of like length waste the least. Of what they
            share, expiry and statistic stay as they are.
        query_SHD: one query a sequence.
        step_S: int32 its step.
        reduction: how the query votes; None for not at all.
        scale, softcap, sink_H: as in `ops.dense`.
        leader_S: int64, the first of the group that each row is in, or itself. Neighbours are a group where all that
            one of them shares is what all of them share, and where they are `rows_at_once` at most. It changes nothing,
            but what they share may be read once for all of them.
        distant: what is seen besides, in one softmax; no query that sees any of it votes.
        form: in which entries are stored.

    Returns:
        [S, H, D] in the query's dtype; zeros where a query sees nothing at all.
    """
    num_sequences, num_heads, head_dim = query_SHD.shape
    num_kv_heads = lists.table.shape[1]
    table_SKP, entries, visible = _seen(pages, lists, step_S, head_dim, form)
    if distant is not None:
        _, others, theirs = _seen(*distant[:2], step_S, head_dim, form)
        theirs &= (others.position > distant.first) & (others.position + distant.recent <= step_S[:, None, None])
        key, value = (torch.cat(pair, dim=2) for pair in zip(entries[:2], others[:2], strict=True))
        entries, visible = entries._replace(key=key, value=value), torch.cat((visible, theirs), dim=2)
    query = query_SHD.float().reshape(num_sequences, num_kv_heads, -1, head_dim) * scale
    scores = soft_capped(torch.matmul(query, entries.key.float().transpose(-1, -2)), softcap)
    scores.masked_fill_(~visible[:, :, None], -torch.inf)
    lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    if sink_H is not None:
        lse = torch.logaddexp(lse, sink_H.float().view(num_kv_heads, -1, 1))
    log_weight = scores - lse.masked_fill(lse == -torch.inf, 0.0)
    weight = torch.exp(log_weight)
    out = torch.matmul(weight, entries.value.float())
    if reduction is not None:
        _vote(pages, lists, table_SKP, entries, reduction, log_weight, weight, visible, step_S)
    return out.view(num_sequences, num_heads, -1).to(query_SHD.dtype)


def _seen(pages: Pages, lists: Lists, step_S: Tensor, head_dim: int, form: Form) -> tuple[Tensor, Entries, Tensor]:
    """The table of a batch's lists, their entries [S, K, N], and which of these queries at these steps see."""
    table_SKP, length_SK = _rows(lists, pages.size)
    channels = None if lists.channels is None else lists.channels[lists.slot.clamp(min=0)]
    entries = read_pages(pages, table_SKP, length_SK, form, channels, head_dim, lists.basis)
    step = step_S[:, None, None]
    return table_SKP, entries, (entries.position <= step) & (step <= entries.expiry)


def _vote(
    pages: Pages,
    lists: Lists,
    table_SKP: Tensor,
    entries: Entries,
    reduction: Reduction,
    log_weight: Tensor,
    weight: Tensor,
    visible: Tensor,
    step_S: Tensor,
) -> None:
    """Write back what queries at these steps found of entries [S, K, N], with weights [S, K, G, N]."""
    step = step_S[:, None, None]
    # A sequence takes the place of a row: [S, K, G, N] -> [K, G, S, N], and back.
    seen = visible.transpose(0, 1)
    hits = hit_rows(reduction, log_weight.permute(1, 2, 0, 3), seen, step_S, entries.position.transpose(0, 1))
    kind, hit = reduction.gathers, hits.transpose(0, 1)
    found = kind.of_rows(weight.permute(1, 2, 0, 3), seen, hits).transpose(0, 1)
    expiry = torch.where(hit, torch.maximum(entries.expiry, step + reduction.window), entries.expiry)
    statistic = kind.gathered(entries.statistic, found[None], dim=0)
    if kind.since_hit:
        statistic = torch.where(hit, 0.0, statistic)
    # Several rows write what they share: all of them what is there already.
    index, shared_SK = torch.arange(entries.position.shape[-1], device=step.device), _per_list(lists, lists.shared)
    theirs = index < shared_SK[..., None]
    expiry = torch.where(theirs, entries.expiry, expiry)
    statistic = torch.where(theirs, entries.statistic, statistic)
    update_pages(pages, table_SKP, expiry, statistic)


def rows_at_once(group: int) -> int:
    """Rows whose queries fill one tile of a matrix product, with so many query heads for each kv head."""
    return max(1, 16 // group)


def _rows(lists: Lists, page_size: int) -> tuple[Tensor, Tensor]:
    """The table [S, K, P] int64, no wider than its longest list, and the lengths [S, K] of a batch.

    A row of slot -1 gets empty lists: what is written for them is lost in page 0.
    """
    slot, length_SK = lists.slot.clamp(min=0), _per_list(lists, lists.length)
    width = -(-int(length_SK.max()) // page_size)
    table_SKP = lists.table[..., :width].index_select(0, slot).long()
    # Behind a list's last page the table may name pages that are others' by now.
    held = torch.arange(width, device=slot.device) * page_size < length_SK[..., None]
    return torch.where(held, table_SKP, 0), length_SK


def _per_list(lists: Lists, number: Tensor) -> Tensor:
    """[S, K] of a number [slots, K]; 0 in a row of slot -1."""
    return torch.where(lists.slot[:, None] >= 0, number[lists.slot.clamp(min=0)], 0)
