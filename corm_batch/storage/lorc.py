"""Keys and values in the directions that a model's weights make most of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from corm_batch.ops.basis import main_directions
from corm_batch.storage.base import Projections
from corm_batch.storage.low_rank import LowRank


class Lorc(LowRank, name="lorc"):
    """Keys and values in a few directions of their head, of the singular values of the model's own weights (LoRC).

    The directions are the left singular vectors of what makes a head's keys, or values, of a token's hidden state
    (arXiv 2410.03111). The paper decomposes the projections of all heads of a layer together; here heads have lists of
    their own, whose entries leave one by one, so each is decomposed by itself. It counts a hidden state's numbers
    alike; here each is scaled as the layer's norm scales it, which costs nothing and loses less. Its ranks by layer:
    see `LowRank`.
    """

    def directions(self, model: Projections) -> Iterator[tuple[Tensor, Tensor]]:
        """Left singular vectors of the layer's projections."""
        key, value = self.columns(model.head_dim, torch.float32)
        for layer in range(model.num_layers):
            by_key, by_value = (weight.double() for weight in model.weights(layer))
            yield (
                main_directions(by_key @ by_key.mT, key.width or 0),
                main_directions(by_value @ by_value.mT, value.width or 0),
            )
