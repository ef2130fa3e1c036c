"""Selection: the few documents of a source that one run is limited to. Knows nothing of what becomes of them."""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from corm_batch.data.sources.base import Source, Split
from corm_batch.errors import FileError


@dataclass(frozen=True)
class Selection:
    """The first documents of a source, or some drawn at random.

    It names rows by their places: as long as the source stays as it is, the same ones every time, and the more that
    are taken, the more are added. Nothing of it changes an answer.

    Attributes:
        documents: how many; all where there are fewer.
        seed: of the draw; None takes the first ones.
    """

    documents: int
    seed: int | None = None

    @property
    def text(self) -> str:
        """`the first 3 documents of the source`, or `10 documents of the source, drawn with seed 0`."""
        number = "1 document" if self.documents == 1 else f"{self.documents} documents"
        if self.seed is not None:
            return f"{number} of the source, drawn with seed {self.seed}"
        return f"the first {number.removeprefix('1 ')} of the source"

    def total(self, available: int | None) -> int | None:
        """How many there are of so many in the source; None where it cannot say."""
        return None if available is None else min(self.documents, available)

    def drawn(self, source: Source, splits: Sequence[Split], columns: Sequence[str]) -> list[set[int]] | None:
        """The numbers of the rows that were drawn, split by split; None where it is the first rows that are taken.

        Splits that cannot say how many documents they have are read for it.

        Raises:
            SourceError: the place where the files lie cannot be read.
        """
        if self.seed is None:
            return None
        rows = [_rows(source, split, columns) for split in splits]
        counts = [len(one) for one in rows]
        total, rng = sum(counts), random.Random(self.seed)
        places: set[int] = set(range(total)) if self.documents >= total else set()
        while len(places) < min(self.documents, total):
            places.add(rng.randrange(total))
        ends = list(accumulate(counts))
        found: list[set[int]] = [set() for _ in splits]
        for place in places:
            index = bisect_right(ends, place)
            found[index].add(rows[index][place - ends[index] + counts[index]])
        return found


def _rows(source: Source, split: Split, columns: Sequence[str]) -> Sequence[int]:
    """The numbers of a split's rows that are documents, of a damaged file those before the damage."""
    if split.num_rows >= 0 and not source.leaves_out:
        return range(split.num_rows)
    found = array("q")
    try:
        for number, document in enumerate(source.read(split, columns)):
            if document.left_out is None:
                found.append(number)
    except FileError:
        return found
    return found
