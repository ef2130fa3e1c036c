"""Basis: keys and values of a layer as numbers in a few directions of their head, keys without their rotary position.

    stored = (undo(key, position) @ key_basis, value @ value_basis)     what `Basis.project` gives
    seen   = (rotate(stored @ key_basis^T, position), stored @ value_basis^T)     and `Basis.rebuild`

Directions are orthonormal, so what is seen and stored again is the same but for rounding. Knows nothing of where they
are from: the forms of storage that have any say.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from corm_batch.ops.rotary import Rotary


class Basis(NamedTuple):
    """The directions in which a layer's keys and values are stored, head by head.

    Attributes:
        key: [K, D, W] float32, of keys without position.
        value: [K, D, V] float32.
        rotary: how keys are turned by their position, all D numbers of them.
        halves: [K, W, D / 2] twice, in the model's type: what makes the first numbers of a key's pairs of what is
            stored, and what makes the second. For kernels, as are the following.
        turns: [D / 2] int32, by how much each pair is turned from a position to the next, a whole turn being 2^32: a
            product with a position loses nothing, however far that is.
        values: [K, V, D] in the model's type.
    """

    key: Tensor
    value: Tensor
    rotary: Rotary
    halves: tuple[Tensor, Tensor]
    turns: Tensor
    values: Tensor

    @classmethod
    def of(cls, key: Tensor, value: Tensor, rotary: Rotary, dtype: torch.dtype) -> Self:
        """From orthonormal directions [K, D, W] and [K, D, V] for a model that computes in `dtype`."""
        half = key.shape[1] // 2
        first, second = ((part * rotary.scale).mT.to(dtype).contiguous() for part in (key[:, :half], key[:, half:]))
        turns = (rotary.frequencies.double() * (2**32 / (2 * math.pi))).round().long() % 2**32
        signed = torch.where(turns < 2**31, turns, turns - 2**32).int()
        return cls(key.float(), value.float(), rotary, (first, second), signed, value.mT.to(dtype).contiguous())

    def project(self, key: Tensor, value: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., K, N, D] at 1-based positions [..., K, N] as they are stored, [..., K, N, W] and
        [..., K, N, V], in their type."""
        still = self.rotary.undo(key, position - 1)
        return (still @ self.key).to(key.dtype), (value.float() @ self.value).to(value.dtype)

    def rebuild(self, key: Tensor, value: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse, in float32; what was left out of what was read, of width 0, stays so."""
        if key.shape[-1]:
            key = self.rotary.rotate(key.float() @ self.key.mT, position - 1)
        if value.shape[-1]:
            value = value.float() @ self.value.mT
        return key, value

    def widened(self, out_SHV: Tensor) -> Tensor:
        """What queries made of values as they are stored, as they would have made it of values: [S, H, D]."""
        num_sequences, num_heads, width = out_SHV.shape
        num_kv_heads, _, head_dim = self.values.shape
        by_head = out_SHV.view(num_sequences, num_kv_heads, -1, width).transpose(0, 1)
        wide = torch.bmm(by_head.reshape(num_kv_heads, -1, width), self.values)
        by_row = wide.view(num_kv_heads, num_sequences, -1, head_dim).transpose(0, 1)
        return by_row.reshape(num_sequences, num_heads, head_dim)


def main_directions(moments: Tensor, width: int) -> Tensor:
    """The `width` directions [..., D, width] that most of some vectors lies in, the most first, of their second moments
    [..., D, D]: left singular vectors of the vectors, orthonormal, float32."""
    _, directions = torch.linalg.eigh(moments.double())
    first: Tensor = directions.flip(-1)[..., :width].float().contiguous()
    return first
