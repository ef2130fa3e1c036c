"""Rotary positions: applied, undone, and averaged over positions to come.

Pairs are the first and second half of the rotated dimensions, as in Llama and most models since; dimensions behind them
are not rotated. Knows nothing of models: `engine/rotary.py` reads the frequencies off one and tries them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """How a model turns queries and keys by their position.

    Attributes:
        frequencies: [R / 2] float32, radians a position, of R rotated dimensions.
        scale: factor of cosines and sines (1 in most models).
    """

    frequencies: Tensor
    scale: float = 1.0

    def rotate(self, x: Tensor, position_N: Tensor) -> Tensor:
        """[..., N, D] float32 without position -> with the 0-based positions."""
        return _turned(x, *self._angles(position_N))

    def undo(self, x: Tensor, position_N: Tensor) -> Tensor:
        """[..., N, D] as `rotate` leaves it -> without position, float32; positions [N] or as the leading sizes."""
        cos, sin = self._angles(position_N)
        return _turned(x.float(), cos / self.scale**2, -sin / self.scale**2)

    def ahead(self, position: int, count: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [R / 2] each, averaged over `count` positions from `position` on."""
        cos, sin = self._angles(torch.arange(position, position + count, device=self.frequencies.device))
        return cos.mean(dim=0), sin.mean(dim=0)

    def _angles(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [..., R / 2]."""
        angle = position[..., None].float() * self.frequencies
        return angle.cos() * self.scale, angle.sin() * self.scale


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of the last dimension turned by an angle; dimensions behind the pairs stay."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def turn_moments(mean: Tensor, covariance: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [..., D] and covariance [..., D, D] of vectors, turned by the linear map of these cosines and sines."""
    rows = _turned(covariance, cos, sin).transpose(-1, -2)
    return _turned(mean, cos, sin), _turned(rows, cos, sin)
