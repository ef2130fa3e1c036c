"""The forms in which entries are stored, for tests of what reads and writes pages."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops.basis import Basis
from corm_batch.ops.form import Stored
from corm_batch.ops.pages import Column, Pages, columns_within, narrowed, page_bytes, widened
from corm_batch.ops.rotary import Rotary
from corm_batch.storage.fp8 import Fp8
from corm_batch.storage.int4 import Int4
from corm_batch.storage.int8 import Int8
from corm_batch.storage.model import Model

MODEL, FP8, INT8, INT4 = Model(), Fp8(), Int8(), Int4()
FORMS = [pytest.param(form, id=form.name) for form in (MODEL, FP8, INT8, INT4)]


def laid_out(pages, device=None):
    """Pages of the same contents whose columns stand side by side."""
    page_size = pages.position.shape[1]
    columns = [Column("", one.dtype, one.shape[2] if one.dim() > 2 else None) for one in pages.tensors]
    num_bytes = page_bytes(page_size, columns)
    memory = torch.zeros(len(pages.position), num_bytes, dtype=torch.uint8, device=device or pages.key.device)
    tensors = columns_within(memory, columns, page_size)
    values = tensors[len(tensors) - len(pages.further) :]
    same = Pages.of(tensors[: len(tensors) - len(values)], len(pages.scales))._replace(further=tuple(values))
    for column, old in zip(same.tensors, pages.tensors, strict=True):
        column.copy_(old)
    return same


def encoded(entries, form):
    """Entries, or pages [P, C] of plain numbers, as pages have them."""
    key, value, scales = form.encode(entries.key, entries.value)
    stored = Pages(key, value, *entries[2:6], scales)
    return laid_out(stored) if stored.position.dim() == 2 and stored.position.numel() else stored


def decoded(pages, form):
    """Pages of plain numbers in float32 that say the same."""
    key, value = form.decode(Stored(pages.key, pages.value, pages.scales))
    return pages._replace(key=key.float(), value=value.float(), scales=())


def pruned(pages, lists, width, alike=False):
    """Pages and lists whose keys have `width` channels, each list's or, alike, each head's own; and the pages with
    zeros in the others."""
    (slots, heads, _), head_dim = lists.table.shape, pages.key.shape[-1]
    order = torch.rand(1 if alike else slots, heads, head_dim).argsort(dim=-1).expand(slots, -1, -1)
    channels = order[..., :width].sort(dim=-1).values.to(lists.table.device)
    of_page = torch.arange(width, device=channels.device).repeat(len(pages.key), 1)
    for slot, row in enumerate(lists.table):
        for head, ids in enumerate(row):
            of_page[ids.long()] = channels[slot, head]
    narrow = narrowed(pages.key, of_page[:, None])
    zeroed = widened(narrow, of_page[:, None], head_dim)
    narrower = laid_out(pages._replace(key=narrow))
    return narrower, lists._replace(channels=channels.to(torch.uint8)), pages._replace(key=zeroed)


def some_basis(heads, head_dim, width, value_width, dtype=torch.float32, device="cpu", scale=1.0):
    """Orthonormal directions, and frequencies as models have them."""
    key, value = (torch.linalg.qr(torch.randn(heads, head_dim, head_dim)).Q.to(device) for _ in range(2))
    frequencies = 1e4 ** (-torch.arange(head_dim // 2, device=device) / (head_dim // 2))
    return Basis.of(key[..., :width], value[..., :value_width], Rotary(frequencies, scale), dtype)


def copied(pages):
    """The same in memory of its own."""
    return laid_out(pages)


def assert_same(got, expected, where=slice(None)):
    """Two pools of pages, or those of them that an index picks, byte for byte."""
    for one, other in zip(got.bytes, expected.bytes, strict=True):
        assert torch.equal(one[where], other[where])
