"""Layers: which of a model's layers have lists of their own; others borrow those of an earlier one, and store nothing.

model's layers   0  1  2  3  4        borrowed: 3 from 1
lists, by row    0  1  2     3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.kv.groups import Groups, Member

T = TypeVar("T")


class Layers:
    """What each layer of a model attends to.

    Args:
        num_layers: of the model.
        sharing: by borrower, whose lists it borrows; layers are counted from 0.
        groups: of layers that share keys of distant tokens, each with lists of its own; None for none.

    Attributes:
        owners: layers with lists of their own, in order: a cache, its policies and their budgets know these alone, by
            the rows 0, 1, ... that they make.
        borrowers: the others.
        groups: as given.

    Raises:
        SpecError: there is no such layer, or layers are to borrow in a model that has groups.
    """

    def __init__(self, num_layers: int, sharing: Mapping[int, int] | None = None, groups: Groups | None = None) -> None:
        takes, self.groups = sharing or {}, groups
        if takes and groups is not None:
            raise SpecError("engine.sharing: not with a model whose layers share keys of distant tokens (pod)")
        for layer in takes:
            if layer >= num_layers:
                raise SpecError(f"engine.sharing: layer {layer}: the model has the layers 0..{num_layers - 1}")
        self.borrowers = frozenset(takes)
        self.owners = tuple(layer for layer in range(num_layers) if layer not in takes)
        rows = {layer: row for row, layer in enumerate(self.owners)}
        self._rows = [rows[takes.get(layer, layer)] for layer in range(num_layers)]
        self._last = {row: layer for layer, row in enumerate(self._rows)}
        self.num_members = [0] * len(self.owners) if groups is None else groups.num_members(num_layers)

    def row(self, layer: int) -> int:
        """Whose lists a layer attends to."""
        return self._rows[layer]

    def member(self, layer: int) -> Member | None:
        """Where a layer's distant entries are; None where they are its own."""
        return None if self.groups is None else self.groups.members.get(layer)

    def alone(self, row: int) -> bool:
        """Whether a layer, by its row, is in no group."""
        return self.groups is None or not (self.num_members[row] or row in self.groups.members)

    def outlives(self, layer: int) -> bool:
        """Whether what a layer attends to is wanted by one behind it."""
        return self._last[self._rows[layer]] > layer

    @property
    def most_at_once(self) -> int:
        """Owners whose keys and values a pass over prompts holds at once, at most."""
        if self.groups is not None:
            return 1 + max(self.num_members)
        ends = [self._last[row] for row in range(len(self.owners))]
        return max(
            sum(owner <= layer <= end for owner, end in zip(self.owners, ends, strict=True))
            for layer in range(len(self._rows))
        )

    def own(self, of_layers: Sequence[T]) -> list[T]:
        """Of one thing for each layer those of the owners, by row."""
        return [of_layers[layer] for layer in self.owners]

    def check_windows(self, windows: Sequence[int | None]) -> None:
        """Make sure that what an owner keeps is what its borrowers may see.

        Args:
            windows: of each layer: the sliding window that the model itself puts there, None for none.

        Raises:
            SpecError: a borrower's is another one.
            UnsupportedModelError: a layer of a group has one.
        """
        for layer, window in enumerate(windows):
            if window is not None and not self.alone(self._rows[layer]):
                raise UnsupportedModelError(
                    f"layer {layer} shares keys of distant tokens (pod) and sees {_seen(window)}: not supported"
                )
        for layer in sorted(self.borrowers):
            owner = self.owners[self._rows[layer]]
            if windows[layer] != windows[owner]:
                raise SpecError(
                    f"engine.sharing: layer {layer} sees {_seen(windows[layer])} and layer {owner} "
                    f"{_seen(windows[owner])}: a layer can borrow from one that sees as many"
                )

    def spread(self, of_rows: Sequence[T], of_borrower: T) -> list[T]:
        """One thing for each layer, made of one for each row."""
        return [of_borrower if layer in self.borrowers else of_rows[row] for layer, row in enumerate(self._rows)]


def _seen(window: int | None) -> str:
    return "all tokens" if window is None else f"the newest {window} tokens"
