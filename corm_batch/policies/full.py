"""Keep everything: the baseline, and the oracle other paths are held against."""

from typing import ClassVar

from corm_batch.policies.base import KVPolicy


class Full(KVPolicy, name="full"):
    """Every entry stays, as in an ordinary cache."""

    keeps_all: ClassVar[bool] = True
