"""Newest: which rows of the parts count, and whose memory they are given."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.data.newest_rows import memory_parts, newest_rows, read_results, with_memory
from corm_batch.errors import SourceError
from tests.outputs import answered, commit


def test_the_last_row_of_every_document_in_any_parts(tmp_path):
    assert newest_rows(str(tmp_path)) == {}
    last, uris = {}, []
    for number in range(6):
        ids = random.choices("abcdefghijkl", k=random.randint(0, 8))
        commit(
            tmp_path,
            [answered(doc_id) for doc_id in ids],
            number=number,
            part_format=random.choice(["parquet", "arrow"]),
        )
        last |= {doc_id: (number, place) for place, doc_id in enumerate(ids)}
        uris += [number] if ids else []
    found = newest_rows(str(tmp_path))
    assert [int(uri.rpartition("-")[2].partition(".")[0]) for uri in found] == uris
    marked = zip(uris, found.values(), strict=True)
    assert {(number, place) for number, rows in marked for place, row in enumerate(rows.to_pylist()) if row} == {
        *last.values()
    }


def test_a_document_whose_newest_row_is_gone_has_none(tmp_path):
    commit(tmp_path, [answered("a"), answered("b"), answered("c", status="gone")])
    commit(tmp_path, [answered("a", status="gone"), answered("c")], number=1)
    assert [rows.to_pylist() for rows in newest_rows(str(tmp_path)).values()] == [[False, True, False], [False, True]]


@pytest.mark.parametrize(
    ("columns", "kind", "values"),
    [
        (([7], pa.int64()), pa.string(), ["8250", "7"]),
        (([True], pa.bool_()), pa.string(), ["8250", "true"]),
        (([[{"x": 1}]], pa.list_(pa.struct({"x": pa.int64()}))), pa.string(), ["8250", '[{"x": 1}]']),
        (([None], pa.int64()), pa.string(), ["8250", None]),
    ],
)
def test_a_column_whose_type_changed_loses_no_value(tmp_path, columns, kind, values):
    commit(tmp_path, [answered("a")])
    commit(tmp_path, [answered("b")], number=1)
    commit(tmp_path, [answered("c")], number=2)
    for number, one in enumerate([(["8250"], pa.string()), columns]):
        (path,) = (tmp_path / "results").glob(f"*{number}.parquet")
        pq.write_table(pq.read_table(path).append_column("code", pa.array(*one)), path)
    found = read_results(tmp_path)["code"]
    assert (found.type, found.to_pylist()) == (kind, [*values, None])


@pytest.mark.parametrize(
    ("old", "new", "values"),
    [
        (pa.array([None], pa.string()), pa.array([7], pa.int64()), [None, 7]),
        (pa.array([1.5]), pa.array([2], pa.int64()), [1.5, 2.0]),
        (pa.array([1.5]), pa.array([2**60 + 1], pa.int64()), ["1.5", "1152921504606846977"]),
    ],
)
def test_a_column_that_had_another_type_keeps_the_narrowest_that_holds_all(tmp_path, old, new, values):
    for number, column in enumerate((old, new)):
        commit(tmp_path, [answered(f"d{number}")], number=number)
        (path,) = (tmp_path / "results").glob(f"*{number}.parquet")
        pq.write_table(pq.read_table(path).append_column("code", column), path)
    assert read_results(tmp_path, memory=True)["code"].to_pylist() == values


def test_memory_parts_by_their_results(tmp_path):
    commit(tmp_path, [answered("a")])
    commit(tmp_path, [answered("b")], number=1)
    next((tmp_path / "memory").glob("*1.parquet")).unlink()
    ((results, memory),) = memory_parts(str(tmp_path)).items()
    assert results == str(next((tmp_path / "results").glob("*0.parquet")))
    assert memory == str(next((tmp_path / "memory").iterdir()))


def test_memory_is_joined_by_document_whatever_the_order():
    results = pa.table({"doc_id": ["c", "a", "b"], "prefill_s": [1.0, 2.0, 3.0]})
    memory = pa.table({"doc_id": ["b", "x", "c"], "prefill_s": [9.0, 9.0, 9.0], "kept_ratio": [0.2, 0.9, 0.3]})
    assert with_memory(results, memory).to_pydict() == {**results.to_pydict(), "kept_ratio": [0.3, None, 0.2]}


@pytest.mark.parametrize("columns", [{"id": ["a"]}, {"doc_id": [["a"]]}])
def test_a_part_of_something_else_is_named(tmp_path, columns):
    commit(tmp_path, [])
    for part_format in ("parquet", "arrow"):
        path = tmp_path / f"results/part-z.{part_format}"
        if part_format == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            with pa.ipc.new_file(path, pa.table(columns).schema) as writer:
                writer.write_table(pa.table(columns))
        with pytest.raises(SourceError, match=rf"part-z\.{part_format}"):
            newest_rows(str(tmp_path))
        path.unlink()
