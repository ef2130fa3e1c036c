"""The one attention function transformers' models call: it hands each layer's q, k, v to the batch that is running.

Registered with `AttentionInterface`; the name is absent from `AttentionMaskInterface`, so models build no mask. The
batch travels as an argument of `model(...)`, never as a global.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from corm_batch.errors import UnsupportedModelError

ATTENTION = "corm_batch"

_HONOURED = {"sliding_window", "softcap", "s_aux"}
_HARMLESS = {"dropout", "use_cache", "output_attentions", "output_hidden_states", "position_ids", "cache_position"}


@dataclass(frozen=True)
class AttentionFeatures:
    """How one layer attends.

    Attributes:
        scale: factor of the logits.
        softcap: softcap * tanh(logit / softcap), None for none.
        window: newest tokens a query may see, itself included; None for all.
        sink_H: a logit per query head without a value; None for none.
    """

    scale: float
    softcap: float | None = None
    window: int | None = None
    sink_H: Tensor | None = None


class Batch(Protocol):
    """What one forward pass runs."""

    input_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, 0-based, as the model's rotary embedding wants them
    logit_rows: Tensor  # [S] int64, the rows of the packed tokens whose logits are wanted

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Attention of one layer over the packed tokens, [H, T, D]; what is worth keeping goes into the cache."""


class Running:
    """A forward pass over a batch, in a wrapper of one type: compiled layers would be compiled anew for each kind.

    Args:
        batch: what runs.

    Attributes:
        output: what the model's layers made of it, once they have run; see `run_layers_once`.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.output: Any = None

    @property
    def left(self) -> Tensor | None:
        """[R] int64, which of the packed tokens the next layer runs; None for all: few batches leave any behind."""
        return getattr(self.batch, "left", None)

    @property
    def borrowing(self) -> frozenset[int]:
        """Layers whose own keys and values nobody asks for; few batches have any."""
        return getattr(self.batch, "borrowing", frozenset())


def run_layers_once(module: torch.nn.Module) -> None:
    """Let a model's layers run once for each `Running`, however often its head is asked for logits, in place.

    A head over all rows at once would take rows times vocabulary; what else it does to logits is the model's to know.

    Raises:
        UnsupportedModelError: the model has no layers apart from its head.
    """
    layers: Any = module.base_model
    if layers is module:
        raise UnsupportedModelError(f"{type(module).__name__} does not keep its layers apart from its output head")
    run = layers.forward
    # A model that held itself would outlive its engine until the garbage collector comes.
    method: Callable[[], Any] = weakref.WeakMethod(run) if inspect.ismethod(run) else lambda: run

    def forward(*args: Any, **kwargs: Any) -> Any:
        running: Running | None = kwargs.get("batch")
        if running is None:
            return method()(*args, **kwargs)
        if running.output is None:
            running.output = method()(*args, **kwargs)
        return running.output

    layers.forward = forward


def read_logits(module: torch.nn.Module, running: Running, rows: Tensor) -> Tensor:
    """A model's logits of some rows of a pass, [rows, V]; its layers run when it is first asked."""
    logits: Tensor = module(
        input_ids=running.batch.input_ids[None],
        position_ids=running.batch.positions[None],
        use_cache=False,
        logits_to_keep=rows,
        batch=running,
    ).logits
    return logits[0]


def read_features(
    module: torch.nn.Module, scaling: float | None, head_dim: int, kwargs: dict[str, Any]
) -> AttentionFeatures:
    """The features a model asks for in its attention call.

    Raises:
        UnsupportedModelError: it passes something this engine does not honour.
    """
    unknown = {k for k, v in kwargs.items() if k not in _HONOURED | _HARMLESS and v is not None and v is not False}
    if kwargs.get("is_causal", getattr(module, "is_causal", True)) is not False:
        unknown.discard("is_causal")
    else:
        unknown.add("is_causal=False")
    if unknown:
        raise UnsupportedModelError(f"{type(module).__name__} asks attention for {sorted(unknown)}, unknown here")
    return AttentionFeatures(
        scale=head_dim**-0.5 if scaling is None else float(scaling),
        softcap=kwargs.get("softcap"),
        window=kwargs.get("sliding_window"),
        sink_H=kwargs.get("s_aux"),
    )


def refuse_mask(module: torch.nn.Module, attention_mask: Tensor | None) -> None:
    """Refuse a mask of a model's own: attention here is causal.

    Raises:
        UnsupportedModelError: there is one.
    """
    if attention_mask is not None:
        raise UnsupportedModelError(f"{type(module).__name__} needs an attention mask of its own")


def batch_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    batch: Running,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query [1, H, T, D], key and value [1, K, T, D] -> ([1, T, H, D], None)."""
    refuse_mask(module, attention_mask)
    features = read_features(module, scaling, query.shape[-1], kwargs)
    out_HTD = batch.batch.attend(module.layer_idx, query[0], key[0], value[0], features)  # type: ignore[arg-type]
    return out_HTD.transpose(0, 1)[None], None


# What is compiled around it stops short of attention, which runs Python and kernels of its own.
AttentionInterface.register(ATTENTION, torch.compiler.disable(batch_attention_forward))
