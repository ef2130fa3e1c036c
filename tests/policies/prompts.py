"""A prompt in every layer of a model, as transformers computes it: for literal definitions of policies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM


class Layer(NamedTuple):
    """One layer of a prompt."""

    still_query: torch.Tensor  # [H, T, D] without rotary position, as the projection leaves it
    still_key: torch.Tensor  # [K, T, D]
    key: torch.Tensor  # [K, T, D] with it
    value: torch.Tensor  # [K, T, D]
    weight: torch.Tensor  # [H, T, T] attention
    rotation: torch.Tensor  # [T + 1000, D, D] what a position does to a query or key


def layers_of(folder, prompt):
    """Every layer of a Llama."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    projected = {}
    for index, layer in enumerate(model.model.layers):
        for name in ("q_proj", "k_proj"):
            module = getattr(layer.self_attn, name)
            module.register_forward_hook(
                lambda _, __, out, at=(index, name): projected.__setitem__(at, out[0].detach())
            )
    with torch.inference_mode():
        run = model(torch.tensor([prompt]), output_attentions=True, use_cache=True)
        cos, sin = model.model.rotary_emb(torch.zeros(1), torch.arange(len(prompt) + 1000)[None])
    width = run.past_key_values.layers[0].keys.shape[-1]
    turn = torch.zeros(width, width)
    for i in range(width // 2):
        turn[i, i + width // 2], turn[i + width // 2, i] = -1.0, 1.0
    rotation = cos[0][:, :, None] * torch.eye(width) + sin[0][:, :, None] * turn

    def heads(flat):
        return flat.unflatten(-1, (-1, width)).transpose(0, 1)

    return [
        Layer(
            heads(projected[index, "q_proj"]), heads(projected[index, "k_proj"]), cached.keys[0], cached.values[0],
            run.attentions[index][0], rotation,
        )
        for index, cached in enumerate(run.past_key_values.layers)
    ]  # fmt: skip


def highest(score, most, positions=None):
    """The positions of the highest scores, the newer of two equal ones."""
    positions = range(len(score)) if positions is None else positions
    order = sorted(zip(score.tolist(), positions, strict=True))
    return {position for _, position in order[-most:]}
