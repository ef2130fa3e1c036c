"""find_rotary(): how a loaded model turns queries and keys by their position, read off it and tried on every layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.loader import LoadedModel
from corm_batch.errors import UnsupportedModelError
from corm_batch.ops.rotary import Rotary
from corm_batch.policies.base import KVPolicy

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative distance of a query that was turned and turned back; another convention is far above."""


class _OneToken:
    """A token by itself, at some position: what attention makes of it does not depend on where it stands."""

    def __init__(self, position: int, device: torch.device) -> None:
        self.input_ids = torch.ones(1, dtype=torch.int64, device=device)
        self.positions = torch.full((1,), position, device=device)
        self.logit_rows = torch.zeros(1, dtype=torch.int64, device=device)
        self.queries: dict[int, Tensor] = {}

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """The token sees itself alone, so its value comes back."""
        self.queries[layer] = query_HTD[:, 0].float()
        return value_KTD.repeat_interleave(query_HTD.shape[0] // key_KTD.shape[0], dim=0)


def rotary_for(model: LoadedModel, policies: Iterable[KVPolicy]) -> Rotary | None:
    """What policies are told of rotary positions; None where none asks.

    Raises:
        UnsupportedModelError: see `find_rotary`.
    """
    return find_rotary(model) if any(policy.needs.rotary for policy in policies) else None


@torch.inference_mode()
def find_rotary(model: LoadedModel, needing: str = "the policy", *, windows: bool = False) -> Rotary:
    """The rotary embedding of a model's layers, or of those without a window of their own.

    Args:
        model: whose.
        needing: what needs to know it, for whoever reads that it cannot.
        windows: whether layers with a window count.

    Raises:
        UnsupportedModelError: there is none, or more than one, or queries are not turned as it says.
    """
    found = [one for one in model.module.modules() if isinstance(getattr(one, "inv_freq", None), Tensor)]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{needing} needs keys without their rotary position; the model has {len(found)} rotary embeddings, and "
            "one is supported"
        )
    scale = float(getattr(found[0], "attention_scaling", 1.0))
    frequencies = found[0].inv_freq
    assert isinstance(frequencies, Tensor)
    rotary = Rotary(frequencies.float().to(model.device), scale)
    far = max(1, min(model.shape.max_model_len, 1000) - 1)
    at_start, at_far = _OneToken(0, model.device), _OneToken(far, model.device)
    for batch in (at_start, at_far):
        model.forward(batch)
    for layer, window in enumerate(model.windows):
        still, moved = at_start.queries[layer] / scale, at_far.queries[layer]
        distance = (rotary.undo(moved, torch.tensor(far, device=model.device)) - still).norm() / still.norm()
        if (windows or window is None) and not distance.item() <= _TOLERANCE[model.dtype]:
            raise UnsupportedModelError(
                f"{needing} needs keys without their rotary position, and layer "
                f"{layer} turns them in another way than by halves (relative distance {distance.item():.2g})"
            )
    return rotary
