"""Storage: in what form kept keys and values lie in their pages. Which entries those are is the policy's to say.

    engine: {storage: fp8}

A form is a frozen value. It turns keys and values into what is stored and back, entry by entry, and says how many bytes
that takes: pages, admission and every figure of memory count from `columns` and `scales`. Attention within a prompt
never sees a form; a query sees what was kept decoded. Everything that moves entries moves their bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from torch import Tensor

from corm_batch.errors import SpecError
from corm_batch.ops.form import FormKernels, Stored
from corm_batch.ops.pages import Column
from corm_batch.registry import Plugin, shown


class Projections(NamedTuple):
    """What a form may know of the model whose keys and values it stores.

    Attributes:
        num_layers, head_dim: of it.
        num_kv_heads: of a layer, over all ranks.
        own_heads: those of them that are stored here.
        weights: of a layer, what makes its keys, without position, and its values of what its norm makes of hidden
            states: [K, D, E] float32 each, of these heads; what is added to all of them is one more column.
        over_ranks: of numbers that a rank has of its heads the mean over all ranks, who are to decide alike.
    """

    num_layers: int
    num_kv_heads: int
    own_heads: slice
    head_dim: int
    weights: Callable[[int], tuple[Tensor, Tensor]]
    over_ranks: Callable[[Sequence[float]], Sequence[float]]


class Storage(Plugin, kind="storage", package="corm_batch.storage"):
    """In what form kept keys and values lie in their pages; `ops.form.Form` is the part of it that operations know."""

    scales: ClassVar[tuple[Column, ...]] = ()
    """What is stored of an entry beside the numbers of its key and value: one number of 4 bytes a column."""

    needs_fp8: ClassVar[bool] = False
    """Whether a GPU has to know 8-bit floating-point numbers to read it."""

    most_bias: ClassVar[float] = inf
    """Largest bias of a model's keys beside which their other numbers keep their digits, and how many times the median
    a weight of their norm may be: what is larger is refused."""

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """Where the numbers of a key and of a value lie: of a layer of mean rank, where they have ranks of their own.

        Args:
            head_dim: width of both.
            dtype: of both as the model computes them.
        """
        raise NotImplementedError

    prunes_keys: ClassVar[bool] = False
    """Whether lists store keys without some channels: `columns` is of the others, `encode` gets and `decode` gives no
    more, and which they are `channels` says."""

    def channels(self, query: Tensor, key: Tensor, keep: Tensor) -> Tensor:
        """Which channels of its keys a list stores; asked once, when a sequence first stores something in a layer.

        Args:
            query: [H, R, D] of the sequence's tokens.
            key: [K, N, D] of the same, both with their rotary position.
            keep: [K, N] bool, which of them are stored.

        Returns:
            [K, W] int64, ascending.
        """
        raise NotImplementedError

    low_rank: ClassVar[bool] = False
    """Whether lists store keys, without their rotary position, and values as numbers in some directions of their head:
    `columns` is of these numbers, `encode` gets and `decode` gives no more, and which they are `directions` says."""

    def directions(self, model: Projections) -> Iterable[tuple[Tensor, Tensor]]:
        """By layer the directions of keys, [K, D, W], and of values, [K, D, V], orthonormal; asked once a model. Their
        numbers are what the layer stores, and the same in all heads, and in all ranks.

        Raises:
            SpecError, UnsupportedModelError: there are none for this model.
        """
        raise NotImplementedError

    def measured_on(self) -> str | None:
        """SHA-256 of the weights on which what the form needs to know was measured; None where it needs nothing, or
        nobody knows."""
        return None

    def encode(self, key: Tensor, value: Tensor) -> Stored:
        """Keys and values as they are stored. How an entry is does not depend on the others in the call, and one that
        was stored before is stored as it was: streaming prefill stores what it keeps again after every chunk.

        Args:
            key, value: [..., D] as the model computes them, keys with their rotary position; keys [..., W] where
                channels are pruned; numbers in directions of their head where the form is of a low rank.
        """
        raise NotImplementedError

    def decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """Keys and values, [..., D], of what is stored, in a type that has their numbers exactly."""
        raise NotImplementedError

    def kernels(self) -> FormKernels:
        """The same two ways in Triton, which there is on a GPU alone: nothing else may import it.

        Entries are read as words of 16 bits of one, two or four numbers each, or of one number as wide as that or
        wider; keys and values alike, all of them whole words.
        """
        raise NotImplementedError


def _select(value: Any) -> Storage:
    """The form that a name, or a mapping with one, selects; what is wrong with it is told as a part of the engine."""
    if not isinstance(value, str | Mapping | Storage):
        raise SpecError(f"engine.storage: expected a name, or a mapping with one, got {shown(value)}")
    try:
        return Storage.from_spec({"name": value} if isinstance(value, str) else value)
    except SpecError as error:
        lines = (f"engine.{line}" if line.startswith("storage") else line for line in str(error).splitlines())
        raise SpecError("\n".join(lines)) from error


StorageField = Annotated[
    Storage,
    BeforeValidator(_select),
    PlainSerializer(lambda storage: storage.to_spec()),
    WithJsonSchema({"type": "storage"}),
]
"""The type of a field that holds a form of storage, given by name."""
