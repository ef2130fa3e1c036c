"""Keys without the channels that queries need least."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.ops.pages import Column
from corm_batch.storage.model import Model


class Think(Model, name="think"):
    """Keys without the channels that a prompt's newest queries need least, head by head; values as they are (ThinK).

    A channel counts by the squares of the window's queries in it times those of the kept keys (the paper's criterion,
    arXiv 2407.21018, with the queries of a group added up). They are chosen once, when a prompt's first entries are
    stored, for all that come behind them, answers included.
    """

    share: float = Field(0.4, gt=0.0, lt=1.0, description="share of a key's channels that is not stored")
    window: int = Field(
        32, ge=1, description="newest queries of a prompt, or of its first chunk, that say what is needed"
    )

    prunes_keys: ClassVar[bool] = True

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """Keys of an even number of channels, which 32 bits at a time can be read of, in the model's type."""
        width = max(2, 2 * round((1 - self.share) * head_dim / 2))
        return Column("key", dtype, width), Column("value", dtype, head_dim)

    def channels(self, query: Tensor, key: Tensor, keep: Tensor) -> Tensor:
        """Those of the largest products, whose absence changes the scores of these queries least."""
        num_kv_heads, head_dim = key.shape[0], key.shape[-1]
        column, _ = self.columns(head_dim, key.dtype)
        newest = query[:, -self.window :].float().unflatten(0, (num_kv_heads, -1))
        needed = newest.square().sum(dim=(1, 2))
        kept = torch.linalg.vector_norm(key.masked_fill(~keep[..., None], 0), dim=1, dtype=torch.float32)
        kept += kept.sum(dim=-1, keepdim=True) == 0  # where nothing stays, queries decide alone
        channels: Tensor = (needed * kept.square()).topk(column.width or 0, dim=-1).indices.sort(dim=-1).values
        return channels
