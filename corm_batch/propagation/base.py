"""Propagation: which of a prompt's tokens go on to a model's later layers. The others leave their caches, too.

    engine: {propagation: {name: attention, layer: half, share: 0.3, pooling: 31}}

Up to some layer every token is run. Of that layer's attention, what the newest queries gave each token decides, per
document and once a pass: over the whole prompt in exact prefill, over a chunk's own tokens in streaming prefill. What
does not go on is not computed there and has no entries there; what is decoded later goes through every layer.

A propagation is a frozen value. It sees one number a token; it never sees a model, a cache or the other documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from torch import Tensor

from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.registry import Plugin


class Propagation(Plugin, kind="propagation", package="corm_batch.propagation"):
    """Which tokens of a prompt go on to later layers. The first and the newest always do, and what a policy pins."""

    layer: Literal["half"] | Annotated[int, Field(ge=1)] = Field(
        "half", description="layers that run every token; half: half of them, up to one that sees the whole prompt"
    )
    window: int = Field(128, ge=1, description="newest queries of the prompt, or of a chunk, whose attention decides")
    first: int = Field(4, ge=0, description="first tokens of the prompt that always go on")
    recent: int = Field(128, ge=1, description="newest tokens of the prompt, or of a chunk, that always go on")

    def keep_rows(self, score: Tensor, stay: Tensor) -> Tensor:
        """Which tokens go on.

        Args:
            score: [T] float32, what the newest queries gave each token of a prompt, or of a chunk: the sum of their
                weights, mean over all heads; 0 or more.
            stay: [T] bool, those that go on in any case, the last one among them.

        Returns:
            [T] bool.
        """
        raise NotImplementedError

    def fewest(self, num_tokens: int) -> int:
        """Of a prompt, or a chunk, of so many tokens, how many go on at least."""
        return min(num_tokens, self.first + self.recent)

    def deciding_layer(self, windows: Sequence[int | None]) -> int:
        """The index of the layer whose attention decides, the last that runs every token.

        Args:
            windows: of each layer of a model: the sliding window that the model itself puts there, None for none.

        Raises:
            SpecError: there is no such layer, none behind it, or it sees a window alone.
        """
        whole = [layer for layer, window in enumerate(windows[:-1]) if window is None]
        if not whole:
            raise SpecError(
                f"engine.propagation: of the model's {len(windows)} layers none but the last sees a whole prompt, so "
                "nothing tells what could leave"
            )
        if self.layer == "half":
            middle = max(1, len(windows) // 2) - 1
            return min(whole, key=lambda layer: (abs(layer - middle), layer))
        if self.layer - 1 not in whole:
            least = "sees a window alone" if self.layer < len(windows) else "has none behind it"
            raise SpecError(
                f"engine.propagation.layer: {self.layer}: this layer of the model's {len(windows)} {least}; allowed "
                f"are {', '.join(str(layer + 1) for layer in whole)}"
            )
        return self.layer - 1


def propagation_problem(propagation: Propagation | None, policy: KVPolicy) -> str | None:
    """Why tokens cannot leave under a policy; None when they can."""
    if propagation is None or not policy.needs.extra_passes:
        return None
    return (
        f"engine.propagation: {propagation.name}, but under policy.name: {policy.name} the model reads more behind a "
        "prompt, all of whose entries it has to see in every layer: leave one of them out"
    )


def _select(value: Any) -> Propagation:
    """The propagation that a mapping names; what is wrong with it is told as a part of the engine's settings."""
    try:
        return Propagation.from_spec(value)
    except SpecError as error:
        lines = str(error).splitlines()
        raise SpecError(
            "\n".join(f"engine.{line}" if line.startswith("propagation") else line for line in lines)
        ) from error


PropagationField = Annotated[
    Propagation,
    BeforeValidator(_select),
    PlainSerializer(lambda propagation: propagation.to_spec()),
    WithJsonSchema({"type": "propagation"}),
]
"""The type of a field that holds a propagation, given by name."""
