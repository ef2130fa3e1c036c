"""let_rows_leave(): later layers of a loaded model run fewer rows than the first ones, where a pass says so.

Works on decoders that are a list of layers, each of which is called with hidden states and with what else it needs of
every token, such as rotary embeddings. Whether a model's layers need anything more is tried out: a model that gives
other logits so than where the others' keys are merely not seen is refused. Knows nothing of why rows leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corm_batch.engine.attention import AttentionFeatures, Running, read_logits
from corm_batch.engine.fp8 import exact_inputs
from corm_batch.engine.fusion import decoder
from corm_batch.engine.probe import TOLERANCE
from corm_batch.engine.rows import PackedRows
from corm_batch.errors import UnsupportedModelError
from corm_batch.ops.dense import dense_attention
from corm_batch.ops.pages import NEVER

_LENGTHS = (11, 7)
_REFUSED = "engine.propagation is not supported: its later layers do not run on some of the tokens"


class _Narrowing(nn.Module):
    """A layer that is given rows of all tokens of a pass, and runs those that have not been left behind.

    Args:
        inner: the layer.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """What a model asks its layers, such as their type."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own."""
        running: Running | None = kwargs.get("batch")
        if running is not None and (left := running.left) is not None:
            num_rows = len(running.batch.input_ids)
            args, kwargs = _narrowed(args, left, num_rows), _narrowed(kwargs, left, num_rows)
        return self.inner(*args, **kwargs)


def _narrowed(value: Any, left_R: Tensor, num_rows: int) -> Any:
    """The rows that are left of every tensor that has one for each token, [1, T, ...]."""
    if isinstance(value, Tensor):
        return value.index_select(1, left_R) if value.shape[:2] == (1, num_rows) else value
    if isinstance(value, tuple | list):
        return type(value)(_narrowed(one, left_R, num_rows) for one in value)
    return {name: _narrowed(one, left_R, num_rows) for name, one in value.items()} if type(value) is dict else value


class _Trial:
    """A batch that leaves tokens behind after some layer, or keeps them and has nobody see their keys behind it."""

    def __init__(self, prompts: Sequence[Tensor], layer: int, leaves: bool) -> None:
        device = prompts[0].device
        self.layer, self.leaves, self.stops = layer, leaves, np.cumsum([len(one) for one in prompts])
        self.input_ids = torch.cat(list(prompts))
        self.positions = torch.cat([torch.arange(len(one), device=device) for one in prompts])
        self.rows = PackedRows([len(one) for one in prompts], self.positions)
        self.logit_rows = torch.from_numpy(self.stops - 1).to(device)
        self.stay_T = self.positions % 3 != 1
        self.stay_T[self.logit_rows] = True
        self.seen_R = torch.ones_like(self.stay_T)

    @property
    def left(self) -> Tensor | None:
        """Which tokens later layers run."""
        return self.rows.left

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Each prompt by itself, each token within its window."""
        outs = []
        for rows in map(self.rows.of, range(len(self.stops))):
            query, key, value = query_HTD[:, rows], key_KTD[:, rows], value_KTD[:, rows]
            step, reach = self.rows.step_R[rows], features.window or len(self.input_ids)
            first, last = torch.where(self.seen_R[rows], step, NEVER), step + (reach - 1)
            first, last = first.expand(len(key), -1), last.expand(len(key), -1)
            softmax = features.scale, features.softcap, features.sink_H
            out, _ = dense_attention(query, key, value, step, first, last, *softmax)
            outs.append(out.nan_to_num())  # of a token that sees none: no other one sees it
        if layer == self.layer and self.leaves:
            self.rows.leave(self.stay_T, self.logit_rows)
        elif layer == self.layer:
            self.seen_R = self.stay_T
        if self.rows.left is not None:
            self.seen_R = torch.ones_like(self.rows.left, dtype=torch.bool)
        return torch.cat(outs, dim=1)


@torch.inference_mode()
def let_rows_leave(module: nn.Module, vocab_size: int, layer: int, model_type: str) -> None:
    """Have the layers behind one run the rows that are left, in place; a second time changes nothing.

    Args:
        module: a transformers model.
        vocab_size: of its tokens.
        layer: the index of the last one that runs every row.
        model_type: for the message.

    Raises:
        UnsupportedModelError: its layers cannot.
    """
    stack = getattr(decoder(module), "layers", None)
    if not isinstance(stack, nn.ModuleList):
        raise UnsupportedModelError(f"{model_type}: engine.propagation needs a model with a list of layers")
    fresh = [number for number in range(layer + 1, len(stack)) if not isinstance(stack[number], _Narrowing)]
    for number in fresh:
        stack[number] = _Narrowing(stack[number])
    if not fresh:
        return
    generator, device = torch.Generator().manual_seed(0), next(module.parameters()).device
    prompts = [torch.randint(vocab_size, (length,), generator=generator).to(device) for length in _LENGTHS]
    found = []
    # What is compiled should meet a long prompt first.
    with exact_inputs(module), torch.compiler.set_stance("force_eager"):
        for leaves in (True, False):
            trial = _Trial(prompts, layer, leaves)
            try:
                found.append(read_logits(module, Running(trial), trial.logit_rows).float())
            except (RuntimeError, TypeError, IndexError, KeyError) as error:
                raise UnsupportedModelError(f"{model_type}: {_REFUSED}: {error}") from error
    left, hidden = found
    distance = ((left - hidden).norm() / hidden.norm()).item()
    if not distance <= TOLERANCE[next(module.parameters()).dtype]:
        raise UnsupportedModelError(f"{model_type}: {_REFUSED}: other logits (relative distance {distance:.2g})")
