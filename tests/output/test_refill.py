from dataclasses import replace

import pyarrow as pa
import pytest

from corm_batch.data.document import Document
from corm_batch.data.filesystem import read_whole, write_whole
from corm_batch.data.kinds import Moment
from corm_batch.data.newest_rows import read_results
from corm_batch.data.parts import encode_part, list_parts, read_part
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import LeaseError
from corm_batch.output.refill import Refill
from corm_batch.output.writer import PartWriter
from corm_batch.spec import OutputSection
from corm_batch.tasks.base import TaskResult
from tests.output.test_writer import Freehold


def document(name, **carried):
    return Document(name, f"text of {name}", carried=carried, file="in.parquet", row=ord(name) - ord("a"))


def commit(builder, place, part_format, *documents):
    """One part of answers."""
    writer = PartWriter(OutputSection(uri=place, format=part_format), builder, Freehold())
    for one in documents:
        writer.add(builder.answered(one, TaskResult(f"answer of {one.doc_id}"), MemoryStats(prompt_tokens=7)))
    writer.commit()


@pytest.mark.parametrize("part_format", ["parquet", "arrow"])
def test_rows_get_columns_and_keep_everything_else(rows, place, part_format):
    far = Moment(10_000_000, pa.date32())
    before = replace(rows, carried=(pa.field("url", pa.string()), pa.field("far", pa.date32())))
    commit(before, place, part_format, document("a", url="u", far=far), document("b", url="u", far=far))
    commit(replace(before, run_id=f"{rows.run_id}-2"), place, part_format, document("c", url="w", far=far))
    first, second = list_parts(f"{place}/results")
    untouched, old = read_whole(second), read_part(first)
    carried = (pa.field("url", pa.string()), pa.field("year", pa.int64()))
    refill = Refill(carried, Freehold())
    moved = replace(document("b", url="new", year=1999), row=5)
    refill.add(moved, first)
    assert refill.text.endswith("; 1 more wait for the next run")
    refill.commit()
    assert refill.text == "1 document answered before: url, year (output.columns) filled in as the source has it now"
    assert (read_whole(second), list_parts(f"{place}/results")) == (untouched, [first, second])
    new = read_part(first)
    assert new.schema.metadata == old.schema.metadata
    assert new.select(["url", "year", "_source_row"]).to_pylist() == [
        {"url": "u", "year": None, "_source_row": 0},
        {"url": "new", "year": 1999, "_source_row": 5},
    ]
    assert new["carried_sha256"].to_pylist() == [old["carried_sha256"][0].as_py(), moved.carried_sha256]
    same = [name for name in old.column_names if name not in ("url", "_source_row", "carried_sha256")]
    assert new.select(same) == old.select(same)
    assert read_results(place, memory=True)["prompt_tokens"].to_pylist() == [7, 7, 7]


def test_every_row_of_a_document_and_those_of_a_version_without_such_columns(rows, tmp_path):
    task_fields = [pa.field("answers", pa.list_(pa.string())), pa.field("question", pa.string())]
    schema = pa.schema([*rows.result_schema, *task_fields], metadata=rows.result_schema.metadata)
    several = replace(rows, exploded={"answers": "output"}, result_schema=schema)
    writer = PartWriter(OutputSection(uri=str(tmp_path)), several, Freehold())
    result = TaskResult("", {"answers": ["one", "two"]})
    writer.add(several.answered(document("a"), result, MemoryStats()))
    writer.commit()
    (part,) = list_parts(f"{tmp_path}/results")
    stored = read_part(part).drop_columns(["carried_sha256", "_source_file", "_source_row"])
    write_whole(part, encode_part(stored, "parquet"))
    refill = Refill((pa.field("url", pa.string()),), Freehold(), most=1)
    refill.add(document("a", url="u"), part)  # one is enough
    found = read_part(part).select(["output", "question_number", "url", "_source_file"]).to_pylist()
    assert found == [
        {"output": name, "question_number": number, "url": "u", "_source_file": "in.parquet"}
        for number, name in enumerate(["one", "two"])
    ]


def test_a_value_that_the_column_cannot_hold_makes_it_text_and_changes_no_other(rows, tmp_path):
    carried = (pa.field("year", pa.int64()),)
    commit(replace(rows, carried=carried), str(tmp_path), "parquet", document("a", year=1), document("b", year=2))
    (part,) = list_parts(f"{tmp_path}/results")
    refill = Refill(carried, Freehold(), most=1)
    refill.add(document("b", year="soon"), part)
    assert read_part(part)["year"].to_pylist() == ["1", "soon"]


def test_the_part_of_which_most_waits_is_written_first(rows, tmp_path):
    commit(rows, str(tmp_path), "parquet", document("a"), document("b"))
    commit(replace(rows, run_id=f"{rows.run_id}-2"), str(tmp_path), "parquet", document("c"), document("d"))
    first, second = parts = list_parts(f"{tmp_path}/results")
    before = [read_whole(part) for part in parts]
    refill = Refill((pa.field("url", pa.string()),), Freehold(), most=3000)
    for name, part in (("a", first), ("c", second), ("d", second)):
        refill.add(document(name, url=f"of {name}"), part)
    assert [read_whole(part) == content for part, content in zip(parts, before, strict=True)] == [True, False]
    assert read_part(second)["url"].to_pylist() == ["of c", "of d"]
    assert [refill.commit(), refill.commit()] == [True, False]
    assert (read_part(first)["url"].to_pylist(), refill.text.partition(" ")[0]) == (["of a", None], "3")


def test_a_damaged_part_is_left_and_named_while_the_others_are_written(rows, tmp_path):
    commit(rows, str(tmp_path), "parquet", document("a"))
    commit(replace(rows, run_id=f"{rows.run_id}-2"), str(tmp_path), "parquet", document("b"))
    damaged, whole = list_parts(f"{tmp_path}/results")
    write_whole(damaged, content := read_whole(damaged)[:-40])
    refill = Refill((pa.field("url", pa.string()),), Freehold(), most=1)
    refill.add(document("a", url="u"), damaged)
    refill.add(document("b", url="u"), whole)
    assert (read_whole(damaged), read_part(whole)["url"].to_pylist()) == (content, ["u"])
    (line,) = refill.damaged
    assert line.startswith(f"{damaged}: damaged: ")
    assert refill.text.startswith("1 document answered before")


def test_nothing_is_written_once_the_lease_is_lost(rows, tmp_path):
    commit(rows, str(tmp_path), "parquet", document("a"))
    (part,) = list_parts(f"{tmp_path}/results")
    before, refill = read_whole(part), Refill((pa.field("url", pa.string()),), Freehold(lost=True))
    refill.add(document("a", url="u"), part)
    with pytest.raises(LeaseError):
        refill.commit()
    assert read_whole(part) == before
