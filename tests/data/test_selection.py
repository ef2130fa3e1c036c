from collections import Counter

import pytest

from corm_batch.data.document import Document
from corm_batch.data.selection import Selection
from corm_batch.data.sources.base import Split
from corm_batch.errors import FileError

SPLITS = [Split("a", 0, 3), Split("a", 1, 0), Split("b", 0, 5), Split("c", 0), Split("bad", 0, 0, "cut")]


class Four:
    """A source whose file c has four rows, and then damage."""

    leaves_out = False

    def read(self, split, columns):
        assert split.uri == "c"  # the others say how many rows they have
        yield from [Document(str(number), "text") for number in range(4)]
        raise FileError(split.uri, "cut")


def places(documents, seed):
    drawn = Selection(documents, seed).drawn(Four(), SPLITS, ())
    return {(index, number) for index, numbers in enumerate(drawn) for number in numbers}


ALL = places(100, 0)


def test_all_rows_that_can_be_read_may_be_drawn():
    assert {(0, n) for n in range(3)} | {(2, n) for n in range(5)} | {(3, n) for n in range(4)} == ALL
    assert places(12, 3) == ALL
    assert all(len(places(4, seed)) == 4 and places(4, seed) <= ALL for seed in range(20))


def test_a_seed_draws_the_same_rows_and_more_of_them_hold_the_fewer():
    assert places(5, 7) == places(5, 7)
    assert places(3, 7) < places(5, 7) < places(11, 7)
    assert len({frozenset(places(5, seed)) for seed in range(10)}) > 5


def test_every_row_is_as_likely():
    counts = Counter(place for seed in range(2000) for place in places(3, seed))
    assert set(counts) == ALL
    assert all(abs(count - 500) < 5 * (500 * 0.75) ** 0.5 for count in counts.values())


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        (Selection(1), "the first document of the source"),
        (Selection(3), "the first 3 documents of the source"),
        (Selection(1, 4), "1 document of the source, drawn with seed 4"),
        (Selection(20, 0), "20 documents of the source, drawn with seed 0"),
    ],
)
def test_what_it_says(selection, text):
    assert selection.text == text


def test_the_first_ones_need_no_draw_and_are_no_more_than_there_are():
    assert Selection(3).drawn(None, SPLITS, ()) is None
    assert [Selection(3).total(available) for available in (2, 9, None)] == [2, 3, None]
