"""Keys of distant tokens, one set for several neighbouring layers; a model has to be trained to live with that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.engine.shape import ModelShape
from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.kv.groups import Groups
from corm_batch.weights.base import Weights
from corm_batch.weights.kv_heads import FAMILIES

_QUERIES = 64
"""Of a text, evenly spaced, whose attention is compared."""


class PoD(Weights, name="pod"):
    """Neighbouring layers see distant tokens by the keys of the first of them (PoD, Proximal tokens over Distant ones).

    arXiv 2412.02252, version 2. A layer behind the first of its group, a member, has keys and values of its own of the
    first tokens and of the newest; of all others it keeps values alone, and its queries see them by the first layer's
    keys, in one softmax with its own. Which layers go together is found on texts: those whose attention to distant
    tokens is alike, head by head, as the Jensen-Shannon divergence says.

    Weights stay as they are: `python -m infra.training.heal` trains them. Deviations: as many layers as are asked for
    become members, and of all ways to do it the one whose divergences add up to the least is taken, where the paper
    goes by a threshold from layer to layer; what is shared are keys, as its abstract says, each layer with its own
    queries.
    """

    saved: float = Field(
        0.35,
        gt=0,
        lt=0.5,
        description="share of the bytes of distant tokens that are not stored; a key is half a layer's",
    )
    first: int = Field(4, ge=0, description="tokens at the beginning that are never distant")
    recent: int = Field(128, ge=1, description="newest tokens that are not distant, a query's own included")
    groups: tuple[tuple[int, ...], ...] | None = Field(
        None, description="layers that go together, such as [[3, 4], [6, 7, 8]], counted from 0; null: found on texts"
    )

    needs: ClassVar[str] = "calibration, training"

    def refuse(self, config: Any) -> None:
        """Refuse other families, windows, and fields that do not suit the model."""
        if config.model_type not in FAMILIES:
            raise UnsupportedModelError(f"{config.model_type}: pod knows {', '.join(FAMILIES)}")
        windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        if windowed or (config.model_type == "mistral" and config.sliding_window is not None):
            raise UnsupportedModelError(f"{config.model_type}: layers that see a window have no distant tokens for pod")
        layers = ModelShape.from_config(config).num_layers
        if layers < 2:
            raise UnsupportedModelError(f"{config.model_type}: a model of one layer has no neighbours for pod")
        if self.groups is not None:
            try:
                Groups(self.groups, self.first, self.recent).check(layers)
            except ValueError as error:
                raise SpecError(f"weights.groups: {error}") from error
        elif self.num_tokens <= self.first + self.recent:
            raise SpecError(
                f"weights.num_tokens: got {self.num_tokens}: no token is distant in so many, of which the first "
                f"{self.first} and the newest {self.recent} are not"
            )

    def change(self, model: Any, token_ids: Sequence[Tensor]) -> Any:
        """The same weights, with groups in their config."""
        groups = self.groups
        if groups is None:
            long = [ids for ids in token_ids if len(ids) > self.first + self.recent]
            if not long:
                raise SpecError(
                    f"source: no text of more than {self.first + self.recent} tokens (weights.first and weights.recent)"
                )
            unlike = divergences(model, long, self.first, self.recent)
            groups = best_groups(unlike, max(1, min(len(unlike) - 1, round(2 * self.saved * len(unlike)))))
        told = {"groups": [list(group) for group in groups], "first": self.first, "recent": self.recent}
        made = model.__class__(model.config.__class__.from_dict(model.config.to_dict()))
        made.config.pod = told | {"trained": False}
        made.load_state_dict(model.state_dict())
        made.generation_config = model.generation_config
        return made.eval()


@torch.no_grad()
def divergences(model: Any, token_ids: Sequence[Tensor], first: int, recent: int) -> Tensor:
    """How unlike each two layers' attention to distant tokens is, [L, L] nats: mean over texts, queries and heads.

    Args:
        model: of transformers; its attention is computed plainly here.
        token_ids: [T] each, longer than `first` and `recent` together.
        first, recent: tokens that are not distant.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        found = [_text_divergences(model, ids, first, recent) for ids in token_ids]
    finally:
        model.set_attn_implementation(before)
    return torch.stack(found).mean(dim=0)


def _text_divergences(model: Any, ids: Tensor, first: int, recent: int) -> Tensor:
    """The same on one text."""
    queries = torch.arange(first + recent, len(ids), max(1, (len(ids) - first - recent) // _QUERIES), device=ids.device)
    attentions = model.model(input_ids=ids[None], use_cache=False, output_attentions=True).attentions
    place = torch.arange(len(ids), device=ids.device)
    distant = (place >= first) & (place <= queries[:, None] - recent)
    rows = torch.stack([one[0][:, queries].float() * distant for one in attentions]).clamp(min=1e-30)  # [L, H, Q, T]
    rows = (rows / rows.sum(dim=-1, keepdim=True)).cpu()
    entropy = _entropy(rows)
    found = torch.zeros(len(rows), len(rows))
    for layer, one in enumerate(rows):
        mixed = _entropy((one + rows[layer + 1 :]) / 2)
        found[layer, layer + 1 :] = (mixed - (entropy[layer] + entropy[layer + 1 :]) / 2).mean(dim=(1, 2))
    return found + found.T


def _entropy(rows: Tensor) -> Tensor:
    """Of distributions [..., T], in nats."""
    return -(rows * rows.log()).sum(dim=-1)


def best_groups(unlike: Tensor, num_members: int) -> tuple[tuple[int, ...], ...]:
    """The groups of neighbours with so many members in all whose divergences from their owners add up to the least.

    Args:
        unlike: [L, L], see `divergences`.
        num_members: fewer than L.
    """
    layers, cost = len(unlike), unlike.tolist()
    # By layers in front and members among them: the least sum, and the layers of the last run.
    best: dict[tuple[int, int], tuple[float, int]] = {(0, 0): (0.0, 0)}
    for stop in range(1, layers + 1):
        for owner in range(stop):
            total, members = sum(cost[owner][owner + 1 : stop]), stop - owner - 1
            for had in range(num_members - members + 1):
                if (owner, had) in best:
                    sum_ = best[owner, had][0] + total
                    if sum_ < best.get((stop, had + members), (float("inf"), 0))[0]:
                        best[stop, had + members] = sum_, owner
    groups, stop, left = [], layers, num_members
    while stop:
        owner = best[stop, left][1]
        groups.append(tuple(range(owner, stop)))
        stop, left = owner, left - (stop - owner - 1)
    return tuple(group for group in reversed(groups) if len(group) > 1)
