"""spare_projections(): keys and values of layers that borrow another's entries are not computed where nobody asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


class Spared(nn.Module):
    """A projection that gives zeros, which take no memory, in passes that have no use for what it gives.

    Args:
        inner: the projection, [..., C] in, [..., width] out.
        width: of what it gives.

    Attributes:
        idle: whether the pass that runs has no use for it.
    """

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner, self.width, self.idle = inner, width, False

    def __getattr__(self, name: str) -> Any:
        """What others ask a projection, such as its weights."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, hidden: Tensor) -> Tensor:
        """As the inner one, or zeros."""
        if self.idle:
            return hidden.new_zeros(()).expand(*hidden.shape[:-1], self.width)
        given: Tensor = self.inner(hidden)
        return given


def spare_projections(module: nn.Module, layers: Iterable[int], width: int) -> dict[int, list[Spared]]:
    """Make the projections of keys and of values of some layers ones that can be idle, in place; a second time changes
    nothing. Those of models that have one projection for queries, keys and values go on as they are.

    Args:
        module: a transformers model.
        layers: which of its layers.
        width: of a token's keys, all heads of this rank.

    Returns:
        By layer, what can be idle.
    """
    found: dict[int, list[Spared]] = {layer: [] for layer in layers}
    for one in list(module.modules()):
        spared = found.get(getattr(one, "layer_idx", -1))
        parts = {name: getattr(one, name, None) for name in ("k_proj", "v_proj")}
        if spared is None or not all(isinstance(part, nn.Module) for part in parts.values()):
            continue
        for name, part in parts.items():
            assert isinstance(part, nn.Module)
            setattr(one, name, part if isinstance(part, Spared) else Spared(part, width))
            spared.append(getattr(one, name))
    return found


def let_idle(spared: Mapping[int, Iterable[Spared]], layers: frozenset[int]) -> None:
    """Before a pass: the projections of these layers are idle in it, others are not."""
    for layer, projections in spared.items():
        for projection in projections:
            projection.idle = layer in layers
