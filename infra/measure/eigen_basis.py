"""A basis for `engine.storage: {name: eigen, basis: FILE}` of a job's model (Eigen Attention, arXiv 2408.05646).

    python -m infra.measure.eigen_basis jobs/quickstart/job.yaml --license CC0-1.0 --output eigen.safetensors

The model reads pieces of the job's own documents. Of every head the singular vectors of its keys and queries together,
both without their rotary position, are the directions of keys, and those of what its queries make of its values the
directions of values: tokens that all look at count as much as they are looked at. (The paper takes the values
themselves. The few values that most queries see, of a text's first tokens, are so small that their directions come
last then; SmolLM2-135M loses 0.18 nats a token by the last 4 of 64, and 0.01 this way.) All directions are written, the
first the one that most lies in, so one file serves every share. It names the model and the hashes of its weights and
of the texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.rotary import find_rotary
from corm_batch.engine.text_batch import TextBatch
from corm_batch.evaluation.run import job_texts
from corm_batch.ops.basis import main_directions
from corm_batch.ops.rotary import Rotary
from corm_batch.weights.conversion import Texts
from infra.measure.texts import opened, parser_of, pieces


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
    save_file(find_directions(model, texts), options.output, metadata={"about": json.dumps(about)})
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
