"""Keys and values in the directions that they have on texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
from pydantic import Field, ValidationInfo, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from corm_batch.errors import SpecError
from corm_batch.file_hash import file_sha256
from corm_batch.ops.pages import Column
from corm_batch.registry import SAME_ANSWERS
from corm_batch.storage.base import Projections
from corm_batch.storage.low_rank import LowRank

_ATOL = 0.01
"""By which products of directions may be off 0 and 1: those stored in 16 bits are."""


class Eigen(LowRank, name="eigen"):
    """Keys and values in a few directions of their head, those of keys, queries and values of texts (Eigen Attention).

    The directions are the singular vectors of a head's keys and its queries together, both without position, and of its
    values (arXiv 2408.05646), out of the file that `python -m infra.measure.eigen_basis` writes. The paper lowers a
    layer's ranks, those of keys and of values by one threshold of their singular values, until the layer's output is
    off by too much. `error` does so with what its attention hands on, keys and values each by what they do alone, as
    the file has measured it. The paper folds the directions into the weights; with rotary positions that cannot be done
    for keys, which are rebuilt where a query sees them.
    """

    basis: Annotated[str, SAME_ANSWERS] = Field(description="file that python -m infra.measure.eigen_basis writes")
    sha256: str | None = Field(None, validate_default=True, description="of that file; read off it where not given")
    error: float | None = Field(
        None,
        gt=0.0,
        description="ranks by layer, no shares: most by which either puts off what attention hands on",
    )

    @field_validator("basis")
    @classmethod
    def _check_basis(cls, value: str) -> str:
        try:
            file_sha256(value)
        except OSError as error:
            raise ValueError(f"no basis there: {error.strerror or error}") from error
        return str(Path(value).absolute())

    @field_validator("sha256")
    @classmethod
    def _read_sha256(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (path := info.data.get("basis")) is None:
            return value
        found = file_sha256(path)
        if value not in (None, found):
            raise ValueError(f"{path} is another file by now, of sha256 {found}")
        return found

    @field_validator("error")
    @classmethod
    def _check_error(cls, value: float | None, info: ValidationInfo) -> float | None:
        path, sha256 = info.data.get("basis"), info.data.get("sha256")
        if value is not None and path is not None and sha256 is not None and _errors(path, sha256) is None:
            raise ValueError(f"{path} does not say by how much ranks put layers off: write it again")
        return value

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """As many numbers as the shares say, or in the mean of all layers the error."""
        if self.error is None:
            return super().columns(head_dim, dtype)
        key, value = (round(fmean(ranks)) for ranks in zip(*self._ranks(head_dim), strict=True))
        return Column("key", dtype, key), Column("value", dtype, value)

    def _ranks(self, head_dim: int) -> list[tuple[int, int]]:
        """By layer, of keys and of values, the least that put it off by no more than the error; none for a file
        that says nothing of it."""
        errors = _errors(self.basis, self.sha256)
        if errors is None or self.error is None:
            return []
        few = (torch.stack(errors) > self.error).sum(dim=-1)
        return [(min(head_dim, 4 * key + 4), min(head_dim, 4 * value + 4)) for key, value in few.T.tolist()]

    def measured_on(self) -> str | None:
        """As the file says."""
        try:
            with safe_open(self.basis, framework="pt") as file:
                weights = json.loads((file.metadata() or {})["about"])["weights_sha256"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # whoever reads the directions says why
        return weights if isinstance(weights, str) else None

    def directions(self, model: Projections) -> Iterator[tuple[Tensor, Tensor]]:
        """Out of the file.

        Raises:
            SpecError: it is none, or another file by now, or another model's, or its directions are not orthonormal.
        """
        try:
            if file_sha256(self.basis) != self.sha256:  # a replica may begin long after the job
                raise SpecError(
                    f"engine.storage.basis: {self.basis} is another file by now than that of sha256 {self.sha256}"
                )
            tensors = load_file(self.basis)
            keys, values = tensors["key"], tensors["value"]
        except (OSError, SafetensorError, KeyError) as error:
            raise SpecError(f"engine.storage.basis: {self.basis} holds no basis: {error}") from error
        expected = model.num_layers, model.num_kv_heads, model.head_dim, model.head_dim
        if not keys.shape == values.shape == expected:
            other = values if keys.shape == expected else keys
            raise SpecError(
                f"engine.storage.basis: {self.basis} is of a model of {_counts(other.shape)}; this one has "
                f"{_counts(expected)}"
            )
        one = torch.eye(model.head_dim)
        for name, found in (("key", keys), ("value", values)):
            if not torch.allclose(found.float().mT @ found.float(), one, atol=_ATOL):
                raise SpecError(
                    f"engine.storage.basis: {self.basis} holds no basis: directions of {name} are not orthonormal"
                )
        key, value = (column.width or 0 for column in super().columns(model.head_dim, torch.float32))
        ranks = self._ranks(model.head_dim) or [(key, value)] * model.num_layers
        if len(ranks) != model.num_layers:
            raise SpecError(f"engine.storage.basis: {self.basis} has errors of {len(ranks)} layers")
        for of_keys, of_values, (key, value) in zip(keys, values, ranks, strict=True):
            yield of_keys[model.own_heads, :, :key], of_values[model.own_heads, :, :value]


@lru_cache(8)
def _errors(path: str, sha256: str | None) -> tuple[Tensor, Tensor] | None:
    """By how much [L, D / 4] a layer is off with the first 4, 8, 12 ... directions of keys, and with those of values;
    None where the file does not say. Whose content has this hash: what it says is remembered."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("key_error"), file.get_tensor("value_error")
    except (OSError, SafetensorError):
        return None


def _counts(shape: tuple[int, ...]) -> str:
    square = len(shape) == 4 and shape[2] == shape[3]
    return f"{shape[0]} layers, {shape[1]} kv heads, {shape[2]} numbers a head" if square else f"shape {[*shape]}"
