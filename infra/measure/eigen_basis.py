"""A basis for `engine.storage: {name: eigen, basis: FILE}` of a job's model (Eigen Attention, arXiv 2408.05646).

    python -m infra.measure.eigen_basis jobs/quickstart/job.yaml --license CC0-1.0 --output eigen.safetensors

The model reads pieces of the job's own documents. Of every head the singular vectors of its keys and queries together,
both without their rotary position, are the directions of keys, and those of what its queries make of its values the
directions of values: tokens that all look at count as much as they are looked at. (The paper takes the values
themselves. The few values that most queries see, of a text's first tokens, are so small that their directions come
last then; SmolLM2-135M loses 0.18 nats a token by the last 4 of 64, and 0.01 this way.) All directions are written, the
first the one that most lies in, so one file serves every share. It names the model and the hashes of its weights and
of the texts.

For `error` it has, layer by layer, by how much the first 4, 8, 12 ... directions of keys alone put off what attention
hands on of a token, its state and what attention adds to it, and those of values: mean over the tokens of the first few
texts. What comes before the layer is exact, as in the paper, which has the error of a whole layer's output over all
tokens together: in that the few tokens whose states are a hundred times the others' would count alone, and what an MLP
adds would hide what it is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.fusion import decoder_layers
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.rotary import find_rotary
from corm_batch.engine.text_batch import TextBatch
from corm_batch.errors import UnsupportedModelError
from corm_batch.evaluation.run import job_texts
from corm_batch.ops.basis import main_directions
from corm_batch.ops.rotary import Rotary
from corm_batch.weights.conversion import Texts
from infra.measure.texts import opened, parser_of, pieces

_COMPARED = 4
"""Texts on which layers are compared with as many directions as there may be."""


class ObservedBatch(TextBatch):
    """A text in one pass, of which second moments are added to those of others.

    Args:
        ids: [T] of the text.
        rotary: how the model turns keys and queries.
        key, value: [L, K, D, D] float64 of every layer's heads, added to.
    """

    def __init__(self, ids: Tensor, rotary: Rotary, key: Tensor, value: Tensor) -> None:
        super().__init__(ids)
        self._rotary, self._key, self._value = rotary, key, value

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Causal attention, [H, T, D]."""
        out = super().attend(layer, query_HTD, key_KTD, value_KTD, features)
        query, key = (self._rotary.undo(turned, self.positions) for turned in (query_HTD, key_KTD))
        num_kv_heads = len(key_KTD)
        self._key[layer] += _moments(key) + _moments(_by_kv_head(query, num_kv_heads))
        self._value[layer] += _moments(_by_kv_head(out, num_kv_heads))
        return out


class CutBatch(TextBatch):
    """A text in one pass, which notes how far off each layer's attention is with the first directions alone.

    Args:
        ids: [T] of the text.
        rotary: how the model turns keys.
        found: [L, K, D, D] the directions of keys and of values.
        projections: by layer, what makes what attention adds of its output.
        errors: [2, L, R] of keys and of values, with 4, 8, 12 ... of them; added to.
    """

    def __init__(
        self, ids: Tensor, rotary: Rotary, found: Mapping[str, Tensor], projections: Sequence[Any], errors: Tensor
    ) -> None:
        super().__init__(ids)
        self._rotary, self._found, self._projections, self._errors = rotary, found, projections, errors
        self.states = torch.empty(0)  # [T, E] with which the layer began that attends next

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Causal attention, [H, T, D]."""
        out = super().attend(layer, query_HTD, key_KTD, value_KTD, features)
        of_keys, of_values = (self._found[name][layer].to(out.dtype) for name in ("key", "value"))
        still = self._rotary.undo(key_KTD, self.positions).to(out.dtype) @ of_keys
        by_head = _by_kv_head(out, len(of_values))
        for number, width in enumerate(ranks_of(out.shape[-1])):
            cut = self._rotary.rotate(still[..., :width] @ of_keys[..., :width].mT, self.positions).to(out.dtype)
            others, _ = self.attend_causally(query_HTD, cut, value_KTD, features)
            fewer = (by_head @ of_values[..., :width] @ of_values[..., :width].mT).view_as(out)
            for which, made in enumerate((others, fewer)):
                self._errors[which, layer, number] += self._off(layer, made, out)
        return out

    def _off(self, layer: int, made_HTD: Tensor, right_HTD: Tensor) -> float:
        """By how much states behind attention are off, mean over tokens."""
        rows = (one.transpose(0, 1).flatten(1) for one in (made_HTD, right_HTD))
        made, right = (self.states.float() + self._projections[layer](each).float() for each in rows)
        return float(((made - right).norm(dim=-1) / right.norm(dim=-1)).mean())


def ranks_of(head_dim: int) -> list[int]:
    """4, 8, 12 ... directions of a head, all at last."""
    return [min(head_dim, width + 4) for width in range(0, head_dim, 4)]


@torch.inference_mode()
def find_errors(model: LoadedModel, texts: Sequence[Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By how much, [L, R], the layers of a model are off with the first directions of keys, and of values.

    Raises:
        UnsupportedModelError: it cannot be told of such a model.
    """
    layers, rotary = decoder_layers(model.module), find_rotary(model, "a basis", windows=True)
    parts: list[list[Any]] = [[part.o_proj for part in layer.modules() if hasattr(part, "o_proj")] for layer in layers]
    if not all(len(part) == 1 for part in parts):
        raise UnsupportedModelError("a basis needs to see what attention adds, as o_proj; the model has no such part")
    on_device = {name: directions.to(model.device) for name, directions in found.items()}
    errors = torch.zeros(2, len(layers), len(ranks_of(model.shape.head_dim)))
    for ids in texts:
        batch = CutBatch(ids, rotary, on_device, [part for (part,) in parts], errors)

        def begin(_: Any, states: Any, batch: CutBatch = batch) -> None:
            batch.states = states[0].flatten(0, -2)

        hooks = [layer.register_forward_pre_hook(begin) for layer in layers]
        with torch.compiler.set_stance("force_eager"):  # what is compiled would not see the hooks
            model.forward(batch)
        for hook in hooks:
            hook.remove()
    errors /= len(texts)
    return {"key_error": errors[0], "value_error": errors[1]}


def _by_kv_head(of_queries: Tensor, num_kv_heads: int) -> Tensor:
    """[H, T, D] of query heads as [K, G * T, D]."""
    by_kv_head: Tensor = of_queries.unflatten(0, (num_kv_heads, -1)).flatten(1, 2)
    return by_kv_head


def _moments(vectors: Tensor) -> Tensor:
    """Second moments [K, D, D], float64, of vectors [K, N, D]."""
    wide = vectors.double()
    return wide.mT @ wide


@torch.inference_mode()
def find_directions(model: LoadedModel, texts: Iterable[Tensor]) -> dict[str, Tensor]:
    """Of keys and of values, [L, K, D, D] each: the columns of a head's D by D are its directions, the first first.

    Raises:
        UnsupportedModelError: keys of the model cannot be had without their position.
    """
    shape, rotary = model.shape, find_rotary(model, "a basis", windows=True)
    size = shape.num_layers, shape.num_kv_heads, shape.head_dim, shape.head_dim
    key, value = (torch.zeros(size, dtype=torch.float64, device=model.device) for _ in range(2))
    for ids in texts:
        model.forward(ObservedBatch(ids, rotary, key, value))
    return {"key": main_directions(key, shape.head_dim).cpu(), "value": main_directions(value, shape.head_dim).cpu()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the texts, write the file, print what it is of."""
    parser = parser_of(__doc__, "whose model is looked at, and whose documents it reads")
    parser.add_argument("--license", required=True, help="of the documents, for the record")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    job, path, model, encode = opened(options)
    text = "\n\n".join(job_texts(job))
    texts = list(pieces(encode, text, options.tokens, options.texts, model.device))
    about: dict[str, Any] = {
        "model": Path(path).name,
        "weights_sha256": weights_sha256(path),
        "texts": Texts([ids.tolist() for ids in texts], job.source.place, options.license).record(),
    }
    found = find_directions(model, texts)
    found |= find_errors(model, texts[:_COMPARED], found)
    save_file(found, options.output, metadata={"about": json.dumps(about)})
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
