"""Fewer kv heads: neighbours become one, which stands for as much of what they cache as one head can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.engine.shape import ModelShape
from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.weights.base import Weights

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Whose attention is known here: q, k, v and o apart, all of a head turned by its position, the first half of its
channels with the second, and normalised before that or not at all."""


class KVHeads(Weights, name="kv_heads"):
    """Neighbouring kv heads become one, by decomposition of what they cache (Effectively Compress KV Heads).

    arXiv 2406.07056. Values of a group, side by side, are projected on their main directions, as many as one head has
    channels: what projects goes into the value weights, what comes back into the output's. Keys are turned by their
    position before they are cached, and only what turns alike may be added up: the two channels of one frequency, as a
    complex number. So each frequency has a decomposition of its own, of as many numbers as the group has heads, and
    keeps one: what comes back goes into the query weights, and the model needs nothing beside them. The paper has
    strategies of its own for such keys.

    Where a model normalises queries and keys, head by head, their lengths cannot be kept as they were: the norms'
    weights are those whose lengths come nearest, over all heads and texts.
    """

    num_kv_heads: int = Field(ge=1, description="kv heads that are left; divides how many there are")

    needs: ClassVar[str] = "calibration, fine-tuning"

    def refuse(self, config: Any) -> None:
        """Refuse other families, and numbers of heads that do not divide."""
        if config.model_type not in FAMILIES:
            raise UnsupportedModelError(f"{config.model_type}: kv_heads knows {', '.join(FAMILIES)}")
        have = ModelShape.from_config(config).num_kv_heads
        if have % self.num_kv_heads:
            fitting = [str(count) for count in range(1, have) if have % count == 0]
            raise SpecError(
                f"weights.num_kv_heads: got {self.num_kv_heads}, the model has {have}: allowed are {', '.join(fitting)}"
            )

    def change(self, model: Any, token_ids: Sequence[Tensor]) -> Any:
        """The same model with `num_kv_heads` of them."""
        config = model.config.__class__.from_dict(model.config.to_dict() | {"num_key_value_heads": self.num_kv_heads})
        made, layers = model.__class__(config), model.model.layers
        weights = dict(model.state_dict())
        for number, (layer, seen) in enumerate(zip(layers, attention_inputs(model, token_ids), strict=True)):
            merged = merge(Attention.of(layer.self_attn, seen), self.num_kv_heads)
            for name, weight in merged.items():
                weights[f"model.layers.{number}.self_attn.{name}"] = weight
        made.load_state_dict(weights)
        made.generation_config = model.generation_config
        return made.eval()


@torch.no_grad()
def attention_inputs(model: Any, token_ids: Sequence[Tensor]) -> list[Tensor]:
    """What each layer's attention projects, [T, hidden], of all texts."""
    seen: list[list[Tensor]] = [[] for _ in model.model.layers]
    hooks = [
        layer.self_attn.k_proj.register_forward_pre_hook(lambda _, given, into=into: into.append(given[0][0].cpu()))
        for layer, into in zip(model.model.layers, seen, strict=True)
    ]
    try:
        for ids in token_ids:
            model.model(input_ids=ids[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(parts) for parts in seen]


@dataclass(frozen=True)
class Attention:
    """One layer's, in float64: H query heads, K kv heads of D channels; X inputs, a 1 for the biases among them.

    Attributes:
        seen: [T, X] inputs.
        query, key, value: [H or K, D, X].
        output: [hidden, H, D].
        query_norm, key_norm: [D], weights of the norms; None where there are none.
        epsilon: of these.
        biases: projections that have one.
    """

    seen: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    epsilon: float
    biases: tuple[str, ...]

    @classmethod
    def of(cls, module: Any, seen: Tensor) -> Attention:
        """Of a module of transformers."""
        size = module.head_dim
        linear = {name: getattr(module, name) for name in ("q_proj", "k_proj", "v_proj")}

        def heads(name: str) -> Tensor:
            weight, bias = linear[name].weight, linear[name].bias
            bias = weight.new_zeros(len(weight)) if bias is None else bias
            both: Tensor = _wide(torch.cat((weight, bias[:, None]), dim=1)).unflatten(0, (-1, size))
            return both

        def norm(name: str) -> Tensor | None:
            return _wide(getattr(module, name).weight) if hasattr(module, name) else None

        return cls(
            seen=torch.cat((seen.double(), torch.ones(len(seen), 1, dtype=torch.float64)), dim=1),
            query=heads("q_proj"),
            key=heads("k_proj"),
            value=heads("v_proj"),
            output=_wide(module.o_proj.weight).unflatten(1, (-1, size)),
            query_norm=norm("q_norm"),
            key_norm=norm("k_norm"),
            epsilon=module.q_norm.variance_epsilon if hasattr(module, "q_norm") else 0.0,
            biases=tuple(name for name, each in linear.items() if each.bias is not None),
        )


def merge(layer: Attention, num_kv_heads: int) -> dict[str, Tensor]:
    """A layer's weights with so many kv heads, in float32, by their names in the module."""
    size, group = layer.key.shape[1], len(layer.key) // num_kv_heads
    queries = len(layer.query) // len(layer.key)
    out: dict[str, Tensor] = {}

    key, query, length_TK, length_TH = layer.key, layer.query, None, None
    if layer.key_norm is not None and layer.query_norm is not None:
        key, length_TK = _normalised(layer, layer.key, layer.key_norm)
        query, length_TH = _normalised(layer, layer.query, layer.query_norm)
    turning = _complex(_heads(layer.seen, key) if length_TK is None else _heads(layer.seen, key) * length_TK)
    turning = turning.unflatten(1, (num_kv_heads, group))  # [T, n, group, D / 2]
    moment = torch.einsum("tnaf,tnbf->nfab", turning, turning.conj())
    main = torch.linalg.eigh(moment).eigenvectors[..., -1].transpose(1, 2)  # [n, group, D / 2]
    key = _real((main.conj()[..., None] * _complex(key, 1).unflatten(0, (num_kv_heads, group))).sum(dim=1))
    back = main.flatten(0, 1).repeat_interleave(queries, dim=0).conj()
    query = _real(back[..., None] * _complex(query, 1))
    if length_TK is not None and length_TH is not None:
        wanted = (main.conj() * turning).sum(dim=2).abs().square().sum(dim=-1)
        key, out["k_norm.weight"] = _norm_of(layer.seen, key, wanted)
        wanted = _heads(layer.seen, query).square().sum(dim=-1) * length_TH[..., 0].square()
        query, out["q_norm.weight"] = _norm_of(layer.seen, query, wanted)

    cached = _heads(layer.seen, layer.value).unflatten(1, (num_kv_heads, group)).flatten(2)
    moment = torch.einsum("tna,tnb->nab", cached, cached)
    main = torch.linalg.eigh(moment).eigenvectors[..., -size:].unflatten(1, (group, size))  # [n, group, D, D]
    value = torch.einsum("nadr,nadx->nrx", main, layer.value.unflatten(0, (num_kv_heads, group)))
    output = layer.output.unflatten(1, (num_kv_heads, group, queries))
    out["o_proj.weight"] = torch.einsum("onaqd,nadr->onaqr", output, main).flatten(1)
    for name, weight in (("q_proj", query), ("k_proj", key), ("v_proj", value)):
        out[f"{name}.weight"] = weight.flatten(0, 1)[:, :-1]
        if name in layer.biases:
            out[f"{name}.bias"] = weight.flatten(0, 1)[:, -1]
    return {name: weight.float().contiguous() for name, weight in out.items()}


def _normalised(layer: Attention, weight: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Heads as they are cached or asked for, as a product, [H, D, X], and a factor of each text's token, [T, H, 1]."""
    length = (_heads(layer.seen, weight).square().mean(dim=-1) + layer.epsilon).rsqrt()
    usual = length.square().mean(dim=0).sqrt()
    return weight * norm[:, None] * usual[:, None, None], (length / usual)[..., None]


def _norm_of(seen: Tensor, weight: Tensor, wanted_TH: Tensor) -> tuple[Tensor, Tensor]:
    """Heads, [H, D, X], divided by the weights of a norm, [D], behind it: those that give vectors the directions of
    what `weight` makes of the inputs, and nearest the squared lengths `wanted_TH` over all tokens and heads."""
    from scipy.optimize import nnls  # here: who lists what weights may become starts without it

    squares = _heads(seen, weight).square()
    share = squares * (wanted_TH / squares.sum(dim=-1))[..., None] / squares.shape[-1]
    rows = torch.cat((share.flatten(0, 1), share.new_ones(share[..., 0].numel(), 1)), dim=1)
    triangle = torch.linalg.qr(rows, mode="r").R
    inverse = torch.from_numpy(nnls(triangle[:, :-1].numpy(), triangle[:, -1].numpy())[0])
    norm = inverse.clamp(min=1e-3 * inverse.mean().item()).rsqrt()
    return weight / norm[:, None], norm


def _heads(seen: Tensor, weight: Tensor) -> Tensor:
    """[T, H, D] of inputs [T, X] and weights [H, D, X]."""
    heads: Tensor = (seen @ weight.flatten(0, 1).T).unflatten(1, weight.shape[:2])
    return heads


def _wide(tensor: Tensor) -> Tensor:
    """On the CPU, in float64."""
    return tensor.detach().to("cpu", torch.float64)


def _complex(heads: Tensor, dim: int = -1) -> Tensor:
    """The channels of each frequency as one number."""
    return torch.complex(*heads.chunk(2, dim=dim))


def _real(heads: Tensor) -> Tensor:
    """[H, D, X] of [H, D / 2, X]."""
    return torch.cat((heads.real, heads.imag), dim=1)
