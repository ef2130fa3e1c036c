"""Column reduction: what recent queries found of each cached key, without ever storing an attention map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Reduction:
    """One pass over (query rows x keys), reduced per key column."""

    op: Literal["last_hit"]
