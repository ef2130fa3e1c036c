"""Weights: how a model's weights are changed, once, so that what it caches is smaller. Which entries stay is the
policy's to say, and in what form the storage's.

    corm-batch convert job.yaml --weights '{name: kv_heads, num_kv_heads: 3}' --license CC-BY-4.0 --output FOLDER

What comes out is an ordinary model of its family, in a folder that says what it was made of (`conversion.py`). No job
names the change: its `model.name` names the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from corm_batch.registry import Plugin


class Weights(Plugin, kind="weights", package="corm_batch.weights"):
    """A change of a model's weights, found on some texts."""

    needs: ClassVar[str] = "calibration"
    """What it takes to be of use, as `corm-batch policies` says it."""

    num_texts: int = Field(16, ge=1, description="texts that are read for it")
    num_tokens: int = Field(512, ge=2, description="tokens of each, from its beginning, at most")

    def refuse(self, config: Any) -> None:
        """Refuse a model that this cannot change, by its transformers config.

        Raises:
            UnsupportedModelError: it is of another make.
            SpecError: a field does not suit it.
        """
        raise NotImplementedError

    def change(self, model: Any, token_ids: Sequence[Tensor]) -> Any:
        """Another model of the same family.

        Args:
            model: of transformers, in float32; it stays as it is.
            token_ids: [T] each, of prompts as jobs ask them, on the model's device.
        """
        raise NotImplementedError
