"""What an earlier job answered, as documents of the next one."""

import pyarrow as pa
import pytest

from corm_batch.data.filesystem import write_whole
from corm_batch.data.parts import encode_part
from corm_batch.data.schema import column, result_schema
from corm_batch.data.sources.base import Source
from corm_batch.data.sources.refined import refined
from corm_batch.data.sources.results import FAILED
from corm_batch.errors import DamagedPartError, SourceError, SpecError
from tests.outputs import START, answered, failed


def write(folder, rows, number=0, *, own=()):
    """One part of the results, with columns of a task's own."""
    rows = [{"run_id": "r", "committed_at": START, "_source_file": "docs", **row} for row in rows]
    table = pa.Table.from_pylist(rows, schema=result_schema(own, {}))
    write_whole(f"{folder}/results/part-r-{number:06d}.parquet", encode_part(table, "parquet"))


def results(folder, **fields):
    return refined(Source.from_spec({"name": "results", "uri": str(folder), **fields}))


def taken(source, columns=(), carried=()):
    return [document for split in source.splits(columns) for document in source.read_carrying(split, columns, carried)]


def test_the_newest_rows_in_the_order_of_their_source_and_failed_ones_left_out(tmp_path):
    write(tmp_path, [answered("b", _source_row=1, output="old"), answered("c", _source_row=2)])
    write(tmp_path, [answered("b", _source_row=1), answered("a", _source_row=0), failed("d", _source_row=3)], 1)
    source = results(tmp_path)
    assert [split.num_rows for split in source.splits()] == [4]
    assert source.leaves_out
    found = taken(source)
    assert [(one.doc_id, one.text, one.left_out) for one in found] == [
        ("a", "answer to a", None), ("b", "answer to b", None), ("c", "answer to c", None), ("d", None, FAILED),
    ]  # fmt: skip
    assert [(one.file, one.row) for one in found] == [("docs", number) for number in range(4)]


def test_columns_are_those_of_the_results_null_where_a_part_has_none(tmp_path):
    own = [column("score", pa.int64(), ""), column("meta", pa.struct([("title", pa.string())]), "")]
    write(tmp_path, [answered("a", _source_row=0)])
    write(tmp_path, [answered("b", _source_row=1, score=3, meta={"title": "T"})], 1, own=own)
    source = results(tmp_path, text_column="meta.title")
    (split,) = source.splits(["score", "prompt_tokens"])
    assert split.kinds == {"score": pa.int64(), "prompt_tokens": pa.int64()}
    lacking, found = taken(source, ["score"], ["status"])
    assert "is null" in lacking.problem
    assert (found.text, found.columns, found.carried) == ("T", {"score": 3}, {"status": "ok"})


@pytest.mark.parametrize("filter", ["status == 'failed'", "error_type == 'DocumentError'", "error_message|length"])
def test_a_filter_about_failures_decides_on_failed_rows_too(tmp_path, filter):
    rows = [answered("a"), failed("b", output="half", error_message="cut"), failed("c")]
    write(tmp_path, rows)
    found = taken(results(tmp_path, filter=filter), ["error_message"])
    assert [one.doc_id for one in found if one.left_out is None] == ["b", "c"]
    assert (found[1].text, found[1].columns) == ("half", {"error_message": "cut"})
    assert "column 'output' is null" in found[2].problem
    by_length = taken(results(tmp_path, filter="output_tokens > 1"))
    assert [one.left_out for one in by_length] == [None, FAILED, FAILED]


def test_each_of_several_rows_of_a_document_is_one(tmp_path):
    write(tmp_path, [answered("a", question_number=0), answered("a", question_number=1, output="second")])
    assert [(one.doc_id, one.text) for one in taken(results(tmp_path))] == [("a#0", "answer to a"), ("a#1", "second")]


def test_groups_of_answers(tmp_path):
    own = [column("topic", pa.string(), "")]
    rows = [answered("a", topic="x"), failed("b", topic="x"), answered("c", topic="y"), answered("d", topic="x")]
    write(tmp_path, rows, own=own)
    source = results(tmp_path, group_by="topic")
    (split,) = source.splits(["members", "topic", "status"])
    assert split.kinds == {"members": pa.int64(), "topic": pa.string(), "status": pa.list_(pa.string())}
    found = taken(source, ["members"])
    assert [(one.doc_id, one.columns) for one in found if one.left_out is None] == [
        ("x", {"members": 2}), ("y", {"members": 1}),
    ]  # fmt: skip
    assert [one.doc_id for one in found if one.left_out == FAILED] == ["b"]


def test_what_is_there_would_be_read_and_nothing_else(tmp_path):
    source = results(tmp_path / "out")
    assert source.would_read(f"{tmp_path}/out/results/part.parquet")
    assert not source.would_read(f"{tmp_path}/out/memory/part.parquet")
    assert not source.would_read(f"{tmp_path}/other/results/part.parquet")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(SourceError, match=r"source.uri: .*nothing is committed there"):
        results(tmp_path).splits()
    write(tmp_path, [answered("a")])
    with pytest.raises(SpecError, match=r"one column 'topic' is wanted; the results have: doc_id, "):
        results(tmp_path).splits(["topic"])
    (tmp_path / "results/part-r-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="damaged") as error:
        results(tmp_path).splits()
    assert isinstance(error.value.__cause__, DamagedPartError)
