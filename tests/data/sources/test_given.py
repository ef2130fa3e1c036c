"""Documents that a Python program has: tables, frames and rows, odd ones among them."""

import pickle
from datetime import date

import pyarrow as pa
import pytest

from corm_batch.data.sources.base import Source
from corm_batch.data.sources.given import GivenRows
from corm_batch.errors import SourceError, SpecError


class Frame:
    """A frame of which nothing is known but its Arrow interface, as pandas' and Polars'."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


ROWS = [
    {"doc_id": "a", "text": "One.", "n": 1, "meta": {"day": date(2020, 1, 2)}},
    {"doc_id": "b", "text": None, "n": None, "meta": None},
    {"doc_id": "c", "text": "Three.", "n": 3, "meta": {"day": None}},
]
TABLE = pa.Table.from_pylist(ROWS)
FORMS = {
    "table": lambda: TABLE,
    "chunks": lambda: pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]),
    "batch": lambda: TABLE.to_batches()[0],
    "frame": lambda: Frame(TABLE),
    "reader": lambda: TABLE.to_reader(1),
    "list": lambda: ROWS,
    "tuple": lambda: tuple(ROWS),
    "iterator": lambda: iter(ROWS),
    "generator": lambda: (dict(row) for row in ROWS),
}


def read(source, columns=(), carried=()):
    (split,) = source.splits([*columns, *carried])
    return split, list(source.read_carrying(split, columns, carried))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_documents(form):
    split, documents = read(GivenRows.of(FORMS[form](), {}), ["n"], ["meta.day"])
    assert split.num_rows == (-1 if form in ("iterator", "generator") else 3)
    assert [(one.doc_id, one.text, dict(one.columns), dict(one.carried)) for one in documents] == [
        ("a", "One.", {"n": 1}, {"meta.day": date(2020, 1, 2)}),
        ("b", None, {"n": None}, {"meta.day": None}),
        ("c", "Three.", {"n": 3}, {"meta.day": None}),
    ]
    assert documents[1].problem == "documents#1: column 'text' is null"
    assert split.kinds == {"n": pa.int64(), "meta.day": pa.date32()}
    assert documents[2].origin == "documents#2"


def test_an_empty_map_of_a_table_has_no_value_behind_its_dot():
    maps = pa.array([[("lang", "de")], [], [("x", "y")]], pa.map_(pa.string(), pa.string()))
    _, documents = read(GivenRows.of(pa.table({"text": ["x"] * 3, "m": maps}), {}), [], ["m.lang"])
    assert [one.carried["m.lang"] for one in documents] == ["de", None, None]


def test_columns_are_named_and_ids_are_made_of_places():
    rows = [{"key": 7, "body": ["x", "y"]}, {"key": None, "body": "z"}, {"body": "q"}]
    fields = {"text_column": "body", "text_separator": " "}
    _, documents = read(GivenRows.of(rows, fields))
    assert [(one.doc_id, one.text) for one in documents] == [
        ("documents#0", "x y"), ("documents#1", "z"), ("documents#2", "q"),
    ]  # fmt: skip
    _, documents = read(GivenRows.of(rows, fields | {"id_column": "key"}))
    assert [one.doc_id for one in documents] == ["7", "documents#1", "documents#2"]
    assert documents[2].problem == "documents#2: column 'key' holds no usable id but None"


def test_odd_rows_fail_alone():
    rows = [{"text": "good"}, 7, None, {"text": 3}, {"text": b"\xff"}, {"text": " "}, {"txt": "x"}, {"text": "good"}]
    _, documents = read(GivenRows.of(rows, {}))
    assert [one.problem is None for one in documents] == [True, *[False] * 6, True]
    assert documents[1].problem == "documents#1: it is no mapping of columns to values but int"
    itself = {"text": "x"}
    itself["meta"] = [itself]
    _, documents = read(GivenRows.of([itself, {"text": "y", "meta": {1: "a", "b": 2}}], {}), ["meta"], ["meta"])
    assert documents[0].problem == "documents#0: column 'meta' nests deeper than 200 levels, or holds itself"
    assert documents[0].carried["meta"] == "<list that nests too deep or holds itself>"
    assert documents[1].text == "y"
    assert [len(one.content_sha256) for one in documents] == [64, 64]
    bytes_of_no_text = pa.table({"text": pa.array([b"\xff", b"ok"], pa.binary())})
    _, documents = read(GivenRows.of(bytes_of_no_text, {}))
    assert [one.text for one in documents] == [None, "ok"]


def test_rows_that_come_one_after_the_other_are_read_once():
    asked = []
    source = GivenRows.of((asked.append(n) or {"text": str(n)} for n in range(300)), {})
    (split,) = source.splits()
    assert len(asked) == 100  # looked at for their columns
    assert [one.text for one in source.read(split, ())] == [str(n) for n in range(300)]
    with pytest.raises(SourceError, match="have been read"):
        list(source.read(split, ()))
    with pytest.raises(SourceError, match="there are none"):
        source.splits()


@pytest.mark.parametrize("documents", [[], iter([]), pa.table({"text": pa.array([], pa.string())})])
def test_no_documents_are_said(documents):
    with pytest.raises(SourceError, match="documents: there are none"):
        GivenRows.of(documents, {}).splits()


@pytest.mark.parametrize("documents", [TABLE, ROWS, iter(ROWS)], ids=["table", "list", "iterator"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(documents):
    with pytest.raises(SpecError, match=r"documents: one column 'body' is wanted; there are: doc_id, text, n, meta"):
        GivenRows.of(documents, {"text_column": "body"}).splits()


@pytest.mark.parametrize("documents", [7, "a text", b"bytes", {"text": ["x"]}, None])
def test_what_is_no_documents_is_refused(documents):
    with pytest.raises(SpecError, match=r"documents: expected an Arrow table, a frame .*, got "):
        GivenRows.of(documents, {})


def test_a_wrong_field_is_named():
    with pytest.raises(SpecError, match=r"source\.text_column: .*got 3"):
        GivenRows.of(ROWS, {"text_column": 3})


def test_rows_stay_in_their_process_and_the_source_in_no_registry():
    source = GivenRows.of((row for row in ROWS), {"text_column": "text"})
    copy = pickle.loads(pickle.dumps(source))
    assert copy.text_column == "text"
    with pytest.raises(SourceError, match="there are none"):
        copy.splits()
    assert len(read(source)[1]) == 3
    assert not source.would_read("documents")
    assert source.to_spec()["name"] == "python"
    assert "python" not in Source.registered()
