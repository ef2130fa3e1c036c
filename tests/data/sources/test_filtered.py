"""Which rows a filter takes, which it leaves out and counts, and which cannot be held against it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.data.sources.base import Source
from corm_batch.data.sources.filtered import NOT_HELD, NULL
from corm_batch.data.sources.refined import refined
from corm_batch.errors import SpecError


@pytest.fixture
def source(tmp_path):
    """Call with a filter and rows."""

    def make(expression, rows, **fields):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "docs.parquet")
        spec = {"name": "parquet", "uri": str(tmp_path / "docs.parquet"), "filter": expression, **fields}
        return refined(Source.from_spec(spec))

    return make


def taken(source, columns=(), carried=()):
    return [document for split in source.splits(columns) for document in source.read_carrying(split, columns, carried)]


def test_rows_are_taken_or_left_out_in_their_places(source):
    rows = [
        {"doc_id": name, "text": name * 3, "year": year} for name, year in zip("abcd", [1, 5, None, 9], strict=True)
    ]
    found = source("year > 4", rows)
    assert [(one.doc_id, one.left_out) for one in taken(found)] == [
        ("a", NOT_HELD), ("b", None), ("c", NULL), ("d", None),
    ]  # fmt: skip
    assert found.leaves_out
    assert [split.num_rows for split in found.splits()] == [4]
    assert found.to_spec()["filter"] == "year > 4"
    assert refined(found) is found


def test_the_columns_of_a_filter_are_none_of_the_documents(source):
    rows = [{"doc_id": "a", "text": "t", "year": 5, "title": "T", "more": 1}]
    (plain,) = taken(refined(source("year > 4", rows).of.model_copy(update={"filter": None})), ["title"], ["more"])
    (found,) = taken(source("year > 4", rows), ["title"], ["more"])
    assert found == plain
    assert found.content_sha256 == plain.content_sha256
    assert (found.columns, found.carried) == ({"title": "T"}, {"more": 1})


def test_a_filter_may_be_about_text_id_and_columns_of_any_name(source):
    rows = [{"doc_id": name, "text": name * size, "due-date": None} for size, name in enumerate("abc", 1)]
    kept = source("text | length > 1 and doc_id != 'c' and row['due-date'] is none", rows)
    assert [one.doc_id for one in taken(kept) if one.left_out is None] == ["b"]


def test_bytes_are_compared_as_the_text_they_are(source):
    rows = [{"doc_id": "a", "text": "t", "kind": b"x"}, {"doc_id": "b", "text": "t", "kind": b"\xff"}]
    assert [one.left_out for one in taken(source("kind == 'x'", rows))] == [None, NOT_HELD]


def test_a_row_that_cannot_be_held_against_it_is_a_problem_and_says_so(source):
    (found,) = taken(source("year > 4", [{"doc_id": "a", "text": "t", "year": "1999"}]))
    assert found.left_out is None
    assert found.text is None
    assert "source.filter cannot be held against year = '1999' (TypeError: " in found.problem


def test_a_bad_row_stays_one_unless_the_filter_leaves_it_out(source):
    rows = [{"doc_id": "a", "text": None, "year": 9, "kind": None}, {"doc_id": "b", "text": None, "year": 1}]
    bad, left_out = taken(source("year > 4 and kind != 'x'", rows))
    assert bad.problem is not None
    assert bad.left_out is None
    assert left_out.left_out == NOT_HELD
    assert [one.left_out for one in taken(source("text is not none", rows))] == [None, None]  # null is the problem


def test_a_row_whose_id_nobody_knows_is_not_left_out_by_the_place_that_stands_for_it(source):
    rows = [{"doc_id": None, "text": "t"}, {"doc_id": "b", "text": None}, {"doc_id": "c", "text": "t"}]
    unknown, bad, good = taken(source("doc_id == 'c'", rows))
    assert (unknown.left_out, bad.left_out, good.left_out) == (None, NOT_HELD, None)
    assert "holds no usable id" in unknown.problem


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("year >", r"source.filter: 'year >' is no expression"),
        ("1 > 0", r"source.filter: '1 > 0' names no column"),
        ("year > 4 and price > 1", r"one column 'price' is wanted; the file has: .*year"),
    ],
)
def test_a_wrong_filter_is_refused(source, expression, said):
    with pytest.raises(SpecError, match=said):
        source(expression, [{"doc_id": "a", "text": "t", "year": 1}]).splits()
