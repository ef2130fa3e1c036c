"""Keys and values in the directions that a model's weights make most of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.ops.basis import main_directions
from corm_batch.storage.base import Projections
from corm_batch.storage.low_rank import LowRank, in_fours


class Lorc(LowRank, name="lorc"):
    """Keys and values in a few directions of their head, of the singular values of the model's own weights (LoRC).

    The directions are the left singular vectors of what makes a head's keys, or values, of a token's hidden state
    (arXiv 2410.03111). The paper decomposes the projections of all heads of a layer together; here heads have lists of
    their own, whose entries leave one by one, so each is decomposed by itself. It counts a hidden state's numbers
    alike; here each is scaled as the layer's norm scales it, which costs nothing and loses less.

    Its ranks by layer, `progression`: an error of a layer grows in those behind it by the condition numbers of their
    matrices, so ranks fall from the layer with the largest product of these, its own and those behind it, to that with
    the smallest, linearly in its logarithm. The paper names the highest and the lowest rank; here the shares are the
    mean of all layers, so that bytes are known before the model is, and this is how far apart the two are.
    """

    progression: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="ranks of the first layers less those of the last, as a share of a head's width",
    )

    def directions(self, model: Projections) -> Iterator[tuple[Tensor, Tensor]]:
        """Left singular vectors of the layer's projections."""
        weights = ([each.double() for each in model.weights(layer)] for layer in range(model.num_layers))
        found = [[weight @ weight.mT for weight in of_layer] for of_layer in weights]
        places = [0.0] * model.num_layers
        if self.progression:
            places = _places(model.over_ranks([sum(map(_log_condition, moments)) for moments in found]))
        shares = (dealt_out(share, self.progression, places) for share in (self.key_share, self.value_share))
        for moments, *layer_shares in zip(found, *shares, strict=True):
            widths = (in_fours(share, model.head_dim) for share in layer_shares)
            key, value = map(main_directions, moments, widths)
            yield key, value


def dealt_out(share: float, spread: float, places: list[float]) -> list[float]:
    """By layer, shares of which the mean is `share`, and the highest `spread` above the lowest as long as that is no
    more than all and no less than nothing; `places`: by layer, from 1 for the highest to 0."""
    if spread == 0:
        return [share] * len(places)
    low, high = -1.0, 1.0
    for _ in range(50):
        base = (low + high) / 2
        shares = [min(1.0, max(0.0, base + spread * place)) for place in places]
        low, high = (base, high) if sum(shares) < share * len(shares) else (low, base)
    return shares


def _log_condition(moments: Tensor) -> float:
    """Logarithm of the condition number of matrices, mean over heads, of their products [K, D, D] with themselves."""
    values = torch.linalg.eigvalsh(moments)
    largest = values[:, -1]
    return float((largest / values[:, 0].clamp(min=1e-14 * largest)).log().mean()) / 2


def _places(log_conditions: Sequence[float]) -> list[float]:
    """By layer, where the product of its condition number and those behind it is between the least and the largest."""
    sums = list(accumulate(reversed(log_conditions)))[::-1]
    least, largest = min(sums), max(sums)
    return [(each - least) / max(largest - least, 1e-9) for each in sums]
