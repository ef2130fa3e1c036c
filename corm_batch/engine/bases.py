"""find_bases(), refuse_lost(), find_layout(): the directions in which a form of low rank has a loaded model's keys and
values stored, whether they leave anything of what the model says, and what stands in pages then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.fusion import decoder_layers
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.rotary import find_rotary
from corm_batch.engine.text_batch import TextBatch
from corm_batch.errors import UnsupportedModelError
from corm_batch.kv.layout import Layout
from corm_batch.ops.basis import Basis
from corm_batch.ops.pages import Column, entry_columns
from corm_batch.ops.scaled import dequantize
from corm_batch.storage.base import Projections, Storage

_TRIED, _MOST_NATS = 64, 4
"""Tokens on which directions are tried, and by how much the model may say something else of them."""
_HEAD_BYTES = 512
"""Of a head's numbers at most where a kernel holds what makes its keys in shared memory: 128 KiB then."""


def find_bases(model: LoadedModel, form: Storage) -> list[Basis] | None:
    """By layer, of the heads that this rank has; None where the form has no such directions.

    Raises:
        UnsupportedModelError: the model turns its keys in another way than whole and by halves, or its heads are too
            wide for a GPU, or its projections cannot be read and the form has to.
        SpecError: the form has directions for another model.
    """
    if not form.low_rank:
        return None
    needing, shard, rank = f"engine.storage: {form.name}", model.shard, model.ranks.rank
    if model.device.type == "cuda" and shard.head_dim * model.dtype.itemsize > _HEAD_BYTES:
        raise UnsupportedModelError(
            f"{needing} needs heads of at most {_HEAD_BYTES // model.dtype.itemsize} numbers in "
            f"{str(model.dtype).removeprefix('torch.')} on a GPU, got {shard.head_dim}"
        )
    rotary = find_rotary(model, needing, windows=True)
    if (turned := 2 * len(rotary.frequencies)) != shard.head_dim:
        raise UnsupportedModelError(
            f"{needing} needs keys that are turned whole by their position; the model turns {turned} of their "
            f"{shard.head_dim} numbers"
        )
    known = Projections(
        shard.num_layers,
        model.shape.num_kv_heads,
        slice(rank * shard.num_kv_heads, (rank + 1) * shard.num_kv_heads),
        shard.head_dim,
        partial(_projections, model, needing),
        lambda numbers: [fmean(each) for each in zip(*model.ranks.gather(list(numbers)), strict=True)],
    )
    return [
        Basis.of(key.to(model.device), value.to(model.device), rotary, model.dtype)
        for key, value in form.directions(known)
    ]


@torch.inference_mode()
def refuse_lost(model: LoadedModel, form: Storage, bases: Sequence[Basis] | None) -> None:
    """Refuse directions that leave nothing of what a model says: what it says of tokens after some is compared with
    what it says when their keys and values are as they are stored.

    Weights alone do not tell how large a hidden state is where: SmolLM2-135M comes out 6 to 8 nats off under `lorc`'s
    defaults, the reference model 0.7, and 3 with half of its numbers.

    Raises:
        UnsupportedModelError: it is more than 4 nats a token.
    """
    if bases is None:
        return
    ids = torch.arange(_TRIED, device=model.device) * 7919 % model.shape.vocab_size
    with torch.compiler.set_stance("force_eager"):  # the first pass that is compiled is to be a long one
        batches = TextBatch(ids), RebuiltBatch(ids, bases)
        plain, rebuilt = (model.forward(one).float().log_softmax(dim=-1) for one in batches)
    lost = float(torch.nn.functional.kl_div(rebuilt, plain, log_target=True, reduction="batchmean"))
    if not lost <= _MOST_NATS:
        raise UnsupportedModelError(
            f"engine.storage: {form.name} leaves nothing of what this model says, which is {lost:.1f} nats a token off "
            f"with keys and values so stored ({_MOST_NATS} are allowed): have it store more of them, or take "
            "another form; eigen finds its directions on texts"
        )


def find_layout(
    model: LoadedModel, config: EngineConfig, own: Iterable[Column], bases: Sequence[Basis] | None
) -> Layout:
    """What stands in the pages of a rank's cache, by layer that has entries.

    Args:
        model, config: of the engine.
        own: the policy's columns.
        bases: as `find_bases` has them.

    Raises:
        SpecError, UnsupportedModelError: see `entry_columns`.
    """
    form, shape = config.form, model.shard
    key, value, *others = entry_columns(form, shape.head_dim, model.dtype, own)
    layers = model.layers(config.sharing)
    by_layer = [
        (key, value, *others)
        if basis is None
        else (key._replace(width=basis.key.shape[-1]), value._replace(width=basis.value.shape[-1]), *others)
        for basis in layers.own(bases or [None] * shape.num_layers)
    ]
    return Layout(by_layer, config.page_size, len(form.scales), layers.num_members)


class RebuiltBatch(TextBatch):
    """A text in one pass whose keys and values are what is rebuilt of what would be stored.

    Args:
        ids: [T] of the text.
        bases: by layer.
    """

    def __init__(self, ids: Tensor, bases: Sequence[Basis]) -> None:
        super().__init__(ids)
        self._bases = bases

    def seen(self, layer: int, key_KTD: Tensor, value_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """The rebuilt ones."""
        basis, position = self._bases[layer], (self.positions + 1).expand(len(key_KTD), -1)
        key, value = basis.rebuild(*basis.project(key_KTD, value_KTD, position), position)
        return key.to(key_KTD.dtype), value.to(key_KTD.dtype)


@torch.inference_mode()
def _projections(model: LoadedModel, needing: str, layer: int) -> tuple[Tensor, Tensor]:
    """`Projections.weights` of a layer; the norm's factors are counted to the weights."""
    layers = decoder_layers(model.module)
    parts = (part for part in layers[layer].modules() if hasattr(part, "k_proj") and hasattr(part, "v_proj"))
    attention: Any = next(parts, None)
    if attention is None:
        raise UnsupportedModelError(
            f"{needing} needs to read what makes keys and what makes values, as k_proj and v_proj; layer {layer} has "
            "no such parts"
        )
    before = getattr(getattr(layers[layer], "input_layernorm", None), "weight", None)
    found = []
    for name in ("k", "v"):
        weight = _matrix(getattr(attention, f"{name}_proj"), before, needing).unflatten(0, (-1, model.shard.head_dim))
        norm = getattr(getattr(attention, f"{name}_norm", None), "weight", None)
        found.append(weight if norm is None else weight * _local(norm).float().view(-1, model.shard.head_dim, 1))
    return found[0], found[1]


def _matrix(linear: Any, before: Tensor | None, needing: str) -> Tensor:
    """The weights of a linear layer [N, E], each column times a factor, with its bias as one column more."""
    weight, scale = _local(linear.weight), getattr(linear, "weight_scale", None)
    if scale is not None:
        weight = dequantize(weight, _local(scale))
    if not weight.is_floating_point() or weight.dim() != 2:
        raise UnsupportedModelError(f"{needing} cannot read the weights of a {type(linear).__name__}")
    weight = weight.float()
    if before is not None:
        weight = weight * _local(before).float()
    return weight if linear.bias is None else torch.cat((weight, _local(linear.bias).float()[:, None]), dim=1)


def _local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
