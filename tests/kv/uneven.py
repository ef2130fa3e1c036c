"""Layers whose entries are of different widths."""

from __future__ import annotations

import torch

from corm_batch.ops.pages import Column, entry_columns
from tests.ops.forms import MODEL


def columns_of(key_width: int, value_width: int, own: tuple[Column, ...] = ()) -> tuple[Column, ...]:
    """Of entries in float32 whose keys and values are so wide."""
    key, value, *others = entry_columns(MODEL, 8, torch.float32, own)
    return key._replace(width=key_width), value._replace(width=value_width), *others
