"""Form: how keys and values lie in their pages. Operations encode what they store and decode what they read by it.

The plug-ins of `corm_batch.storage` are forms; an operation knows no more of one than is said here, its kernel no more
than the functions that `kernels` names. What moves entries (compaction, the way to host memory and back) knows
none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from corm_batch.ops.pages import Column


class Stored(NamedTuple):
    """Keys and values of some entries as their pages have them."""

    key: Tensor  # [..., D] or what the form makes of it
    value: Tensor  # [..., D] likewise
    scales: tuple[Tensor, ...] = ()  # [...] each


class FormKernels(NamedTuple):
    """The same two ways in Triton, see `ops.kernels.forms`: of one tile of keys (which = 0) or values (1).

    Numbers are read as words: 16 bits of 1, 2 or 4 of them, or one number that is wider.

    Attributes:
        unpack: (words [BN, B], the type of the product) -> the words' first numbers, their second ones and so on, tiles
            [BN, B] each.
        factors: (scales, which, place [BN], mask [BN]) -> what multiplies the numbers of each equal part of entries,
            [BN] float32 each, 0 where masked.
        save: (tile [BN, D], numbers, scales, which, place [BN], mask [BN], D, BLOCK_D) writes it: `numbers` are
            pointers [BN] to where each entry's begin.
        num_factors: parts of an entry that have a factor of their own, a power of two.
    """

    unpack: Callable[..., Any]
    factors: Callable[..., Any]
    save: Callable[..., Any]
    num_factors: int = 1


class Form(Protocol):
    """How keys and values lie in their pages."""

    @property
    def scales(self) -> tuple[Column, ...]:
        """What is stored of an entry beside its numbers, one number a column: its key's, then as many of its value."""

    @property
    def prunes_keys(self) -> bool:
        """Whether lists store keys without some channels; the keys below are narrower then."""

    def channels(self, query: Tensor, key: Tensor, keep: Tensor) -> Tensor:
        """Which of them a list stores, [K, W] int64, of queries [H, R, D] and the keys [K, N, D] that it keeps."""

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """Where the numbers of a key, and those of a value, of this width and type lie."""

    def encode(self, key: Tensor, value: Tensor) -> Stored:
        """Keys and values [..., D] as they are stored: the same entry alike wherever it stands."""

    def decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """Keys and values [..., D] of what is stored, in a type that has their numbers exactly."""

    def kernels(self) -> FormKernels:
        """The same on a GPU; asked for where there is Triton."""
