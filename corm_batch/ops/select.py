"""The plain definitions of operations or their Triton kernels, whichever a device runs best."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from corm_batch.ops.append import append_entries, append_values
from corm_batch.ops.compact import compact_lists
from corm_batch.ops.decode import decode_attention
from corm_batch.ops.dense import dense_attention
from corm_batch.ops.form import Form
from corm_batch.ops.gather import gather_entries
from corm_batch.ops.likeliest import likeliest_tokens
from corm_batch.ops.mask import mask_tokens
from corm_batch.ops.pages import Entries
from corm_batch.ops.reduction import reduce_columns
from corm_batch.ops.store import store_entries
from corm_batch.ops.top import top_entries


class Ops(NamedTuple):
    """The operations of a forward pass; see the functions of the same names for what they do."""

    dense_attention: Callable[..., tuple[Tensor, Tensor]]
    reduce_columns: Callable[..., Entries]
    top_entries: Callable[[Tensor, Tensor, Tensor, int | Tensor], Tensor]
    store_entries: Callable[..., tuple[Tensor, Tensor]]
    gather_entries: Callable[..., Entries]
    append_entries: Callable[..., None]
    append_values: Callable[..., None]
    decode_attention: Callable[..., Tensor]
    compact_lists: Callable[..., Tensor]


PLAIN = Ops(
    dense_attention,
    reduce_columns,
    top_entries,
    store_entries,
    gather_entries,
    append_entries,
    append_values,
    decode_attention,
    compact_lists,
)


def select_ops(device: torch.device, form: Form) -> Ops:
    """Triton kernels on a GPU, the definitions elsewhere, for entries that are stored in one form."""
    ops = PLAIN if device.type != "cuda" else _kernels()
    return ops._replace(
        store_entries=partial(ops.store_entries, form=form),
        gather_entries=partial(ops.gather_entries, form=form),
        append_entries=partial(ops.append_entries, form=form),
        append_values=partial(ops.append_values, form=form),
        decode_attention=partial(ops.decode_attention, form=form),
    )


def select_mask(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], None]:
    """`mask_tokens`, which knows of no entries: its kernel on a GPU, the definition elsewhere."""
    if device.type != "cuda":
        return mask_tokens
    from corm_batch.ops.kernels import mask  # torch for CPU has no triton

    return mask.mask_tokens


def select_likeliest(device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """`likeliest_tokens`: its kernel on a GPU, the definition elsewhere."""
    if device.type != "cuda":
        return likeliest_tokens
    from corm_batch.ops.kernels import likeliest  # torch for CPU has no triton

    return likeliest.likeliest_tokens


def _kernels() -> Ops:
    """What stands in the place of the definitions on a GPU."""
    from corm_batch.ops.kernels import (
        append,
        compact,
        decode,
        dense,
        gather,
        reduction,
        store,
        top,
    )  # torch for CPU has no triton

    return Ops(
        dense.dense_attention,
        reduction.reduce_columns,
        top.top_entries,
        store.store_entries,
        gather.gather_entries,
        append.append_entries,
        append.append_values,
        decode.decode_attention,
        compact.compact_lists,
    )
