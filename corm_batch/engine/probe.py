"""probe(): the loaded model answers a small packed batch, which must agree with its own eager attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corm_batch.engine.attention import ATTENTION, AttentionFeatures, Running, read_logits
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import UnsupportedModelError
from corm_batch.ops.causal import causal_attention

_PROBE_LENGTHS = (11, 7)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
"""Relative Frobenius distance of a trial's logits: rounding stays far below, a wrong feature far above."""


class _Probe:
    """A batch that attends densely, prompt by prompt, and notes what each layer asked for."""

    def __init__(self, prompts: Sequence[Tensor]) -> None:
        self.lengths = [len(prompt) for prompt in prompts]
        self.input_ids = torch.cat(list(prompts))
        self.positions = torch.cat([torch.arange(n, device=self.input_ids.device) for n in self.lengths])
        self.logit_rows = torch.arange(len(self.input_ids), device=self.input_ids.device)
        self.calls: list[tuple[int, AttentionFeatures, int, int, int]] = []

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Causal attention of each prompt by itself."""
        self.calls.append((layer, features, key_KTD.shape[0], key_KTD.shape[-1], value_KTD.shape[-1]))
        outs = [
            causal_attention(q, k, v, features.scale, features.softcap, features.window, features.sink_H)[0]
            for q, k, v in zip(*(x.split(self.lengths, dim=1) for x in (query_HTD, key_KTD, value_KTD)), strict=True)
        ]
        return torch.cat(outs, dim=1)


@torch.inference_mode()
def probe(module: torch.nn.Module, shape: ModelShape, model_type: str) -> tuple[int | None, ...]:
    """Run a small packed batch, compare it with the model's own eager attention, and read off the layers' windows.

    Raises:
        UnsupportedModelError: layers without attention of their own, widths that differ, or other logits.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(module.parameters()).device
    prompts = [torch.randint(shape.vocab_size, (n,), generator=generator).to(device) for n in _PROBE_LENGTHS]
    batch = _Probe(prompts)
    try:
        running, parts = Running(batch), batch.logit_rows.split(_PROBE_LENGTHS[0])
        packed = torch.cat([read_logits(module, running, rows) for rows in parts])
    except TypeError as error:
        raise UnsupportedModelError(
            f"{model_type}: does not pass the engine's batch to its attention: {error}"
        ) from error
    _check_layers(batch, shape, model_type)
    module.set_attn_implementation("eager")  # type: ignore[operator]
    own = torch.cat([module(input_ids=prompt[None], use_cache=False).logits[0] for prompt in prompts])
    module.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    distance = ((packed.float() - own.float()).norm() / own.float().norm()).item()
    if not distance <= TOLERANCE[packed.dtype]:
        raise UnsupportedModelError(
            f"{model_type}: a packed forward gives other logits than the model's own attention "
            f"(relative distance {distance:.2g}, at most {TOLERANCE[packed.dtype]:.2g} is rounding)"
        )
    windows: list[int | None] = [None] * shape.num_layers
    for layer, features, *_ in batch.calls:
        windows[layer] = features.window
    return tuple(windows)


def _check_layers(batch: _Probe, shape: ModelShape, model_type: str) -> None:
    """Every layer must attend once, with the widths the cache is built for."""
    layers = [call[0] for call in batch.calls]
    if sorted(layers) != list(range(shape.num_layers)):
        raise UnsupportedModelError(
            f"{model_type}: {shape.num_layers} layers, of which {sorted(set(layers))} keep keys and values; "
            "layers without (state-space, shared) are not supported"
        )
    for layer, _, num_kv_heads, key_width, value_width in batch.calls:
        found, wanted = (num_kv_heads, key_width, value_width), (shape.num_kv_heads, shape.head_dim, shape.head_dim)
        if found != wanted:
            raise UnsupportedModelError(
                f"{model_type}: layer {layer} has (kv heads, key width, value width) {found}, expected {wanted}"
            )
