"""Keys and values in the directions that they have on texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationInfo, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from corm_batch.errors import SpecError
from corm_batch.file_hash import file_sha256
from corm_batch.registry import SAME_ANSWERS
from corm_batch.storage.base import Projections
from corm_batch.storage.low_rank import LowRank

_ATOL = 0.01
"""By which products of directions may be off 0 and 1: those stored in 16 bits are."""


class Eigen(LowRank, name="eigen"):
    """Keys and values in a few directions of their head, those of keys, queries and values of texts (Eigen Attention).

    The directions are the singular vectors of a head's keys and its queries together, both without position, and of its
    values (arXiv 2408.05646), out of the file that `python -m infra.measure.eigen_basis` writes. The paper lowers a
    layer's ranks until its output is off by too much; here they are given, see `LowRank`. It folds the directions into
    the weights; with rotary positions that cannot be done for keys, which are rebuilt where a query sees them.
    """

    basis: Annotated[str, SAME_ANSWERS] = Field(description="file that python -m infra.measure.eigen_basis writes")
    sha256: str | None = Field(None, validate_default=True, description="of that file; read off it where not given")

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
        key, value = self.columns(model.head_dim, torch.float32)
        for of_keys, of_values in zip(keys, values, strict=True):
            yield of_keys[model.own_heads, :, : key.width], of_values[model.own_heads, :, : value.width]


def _counts(shape: tuple[int, ...]) -> str:
    square = len(shape) == 4 and shape[2] == shape[3]
    return f"{shape[0]} layers, {shape[1]} kv heads, {shape[2]} numbers a head" if square else f"shape {[*shape]}"
