import gzip
import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pyarrow import csv

from corm_batch.data import newest_in_order
from corm_batch.data.document import Document
from corm_batch.data.filesystem import read_whole
from corm_batch.data.formats.base import Format
from corm_batch.data.newest_rows import read_results
from corm_batch.data.parts import list_parts
from corm_batch.data.schema import column, result_schema
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import DamagedPartError, OutputError, SpecError
from corm_batch.output.export import export_rows, format_of, gather_rows
from corm_batch.output.writer import PartWriter
from corm_batch.spec import OutputSection
from corm_batch.tasks.base import TaskResult
from tests.output.test_writer import Freehold

KEY = [("_source_file", "ascending"), ("_source_row", "ascending"), ("doc_id", "ascending")]


@pytest.fixture
def commit(rows, tmp_path):
    """Commits a part of documents (file, row, score) by their ids, of a column `score` of the type of the scores."""

    def write(run_id, part_format="parquet", kind=None, carried=(), **documents):
        kind = kind or pa.int64()
        builder = replace(
            rows,
            run_id=run_id,
            result_schema=result_schema([column("score", kind, "own")], {"corm_batch.run_id": run_id, "of": "all"}),
            carried=tuple(pa.field(name, pa.string()) for name in carried),
        )
        writer = PartWriter(OutputSection(uri=str(tmp_path / "out"), format=part_format), builder, Freehold())
        for doc_id, (file, row, score) in documents.items():
            values = {name: f"{name} of {doc_id}" for name in carried}
            document = Document(doc_id, "text", file=file, row=row, carried=values)
            memory = MemoryStats(prompt_tokens=3, kv_bytes_full=100)
            if score is None:
                writer.add(builder.failed(document, "DocumentError", 'no, "text"\n', memory))
            else:
                writer.add(builder.answered(document, TaskResult(f"answer {doc_id}", {"score": score}), memory))
        writer.commit()

    return write


def rows_of(tmp_path, name="all.parquet", kind=None, **options):
    target = f"{tmp_path}/{name}"
    count = export_rows(f"{tmp_path}/out", target, format_of(target, kind), **options)
    found = pq.read_table(target) if name.endswith("parquet") else None
    assert found is None or found.num_rows == count
    return found if found is not None else count


def test_rows_lie_as_in_the_source_each_document_once(commit, tmp_path, monkeypatch):
    monkeypatch.setattr(newest_in_order, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(newest_in_order, "_PARTS_KEPT", 1)
    commit("1", b2=("b", 2, 1), a10=("a", 10, 2), a9=("a", 9, None))
    commit("2", "arrow", b0=("b", 0, 4), a9=("a", 9, 5))
    commit("3", z=(None, None, 6), y=(None, None, 7), b1=("b", 1, 8))
    found = rows_of(tmp_path)
    assert found["doc_id"].to_pylist() == ["a9", "a10", "b0", "b1", "b2", "y", "z"]
    assert found["score"].to_pylist() == [5, 2, 4, 8, 1, 7, 6]
    expected = read_results(str(tmp_path / "out")).sort_by(KEY)
    assert found.select(expected.column_names).to_pydict() == expected.to_pydict()
    assert pa.types.is_list(found.schema.field("failed_fields").type)
    assert (found.schema.metadata[b"of"], b"corm_batch.run_id" in found.schema.metadata) == (b"all", False)
    with_memory = rows_of(tmp_path, memory=True)
    assert with_memory["kv_bytes_full"].to_pylist() == [100] * 7
    expected = read_results(str(tmp_path / "out"), memory=True).sort_by(KEY)
    assert with_memory.select(expected.column_names).to_pydict() == expected.to_pydict()
    shutil.rmtree(tmp_path / "out/memory")
    assert rows_of(tmp_path, memory=True)["kv_bytes_full"].to_pylist() == [None] * 7


def test_a_column_of_several_types_or_of_some_parts_has_one_that_loses_nothing(commit, tmp_path):
    commit("1", a=("f", 0, 2**53 + 1))
    commit("2", kind=pa.float64(), b=("f", 1, 0.5), carried=["url"])
    commit("3", kind=pa.string(), c=("f", 2, None))
    found = rows_of(tmp_path)
    assert found["score"].to_pylist() == ["9007199254740993", "0.5", None]
    assert found["url"].to_pylist() == [None, "url of b", None]
    commit("4", a=("f", 0, 3))
    assert rows_of(tmp_path)["score"].to_pylist() == [3.0, 0.5, None]
    commit("5", kind=pa.list_(pa.int64()), d=("f", 3, [1, None]))
    assert rows_of(tmp_path)["score"].to_pylist() == ["3", "0.5", None, "[1, null]"]


def test_every_format_and_packed_text(commit, tmp_path):
    commit("1", a=("f", 0, 1), b=("f", 1, None), carried=["url"])
    names = ["all.arrow", "all.jsonl", "all.csv", "all.JSONL.gz", "all.csv.zst", "all.txt"]
    assert [rows_of(tmp_path, name, "csv" if name.endswith("txt") else None) for name in names] == [2] * 6
    assert pa.ipc.open_file(f"{tmp_path}/all.arrow").read_all().num_rows == 2
    lines = read_whole(f"{tmp_path}/all.jsonl")
    first, second = map(json.loads, lines.splitlines())
    assert (first["doc_id"], first["score"], first["url"], first["_source_row"]) == ("a", 1, "url of a", 0)
    assert (second["status"], second["error_message"], second["score"]) == ("failed", 'no, "text"\n', None)
    assert gzip.decompress(read_whole(f"{tmp_path}/all.JSONL.gz")) == lines
    text = read_whole(f"{tmp_path}/all.csv")
    assert zstandard.ZstdDecompressor().decompressobj().decompress(read_whole(f"{tmp_path}/all.csv.zst")) == text
    assert read_whole(f"{tmp_path}/all.txt") == text
    table = csv.read_csv(f"{tmp_path}/all.csv", parse_options=csv.ParseOptions(newlines_in_values=True))
    assert table["error_message"].to_pylist() == ["", 'no, "text"\n']


@pytest.mark.parametrize("name", ["all", "all.xlsx", "all.parquet.gz", ".csv.bz2", "csv"])
def test_a_name_that_says_no_format_is_refused(name):
    with pytest.raises(SpecError, match=r"the name of a file to write ends with one of .*\.jsonl"):
        format_of(name)
    with pytest.raises(SpecError, match=r"format\.name: no format is called 'xml'; there are:\n  arrow: Arrow IPC"):
        format_of(name, "xml")


def test_one_file_is_written_again_where_it_lacks_what_is_committed(commit, tmp_path):
    """As after a run that was killed before it came to that."""
    out = f"{tmp_path}/out"
    commit("run-1", a=("f", 0, 1))
    assert gather_rows(out, f"{out}/results.csv") == 1
    assert gather_rows(out, f"{out}/results.csv") is None
    commit("run-2", b=("f", 1, 2))
    assert gather_rows(out, f"{out}/results.jsonl") == 2
    assert gather_rows(out, f"{out}/results.csv") == 2
    assert csv.read_csv(f"{out}/results.csv")["doc_id"].to_pylist() == ["a", "b"]


def test_what_cannot_be_exported_leaves_the_file_that_is_there(commit, tmp_path):
    target = tmp_path / "all.csv"
    target.write_text("kept")
    with pytest.raises(SpecError, match="nothing is committed there"):
        rows_of(tmp_path, "all.csv")
    commit("1", a=("f", 0, 1))
    part = tmp_path / "out/results" / list_parts(f"{tmp_path}/out/results")[0]
    content = part.read_bytes()
    part.write_bytes(content[:-20])
    with pytest.raises(DamagedPartError):
        rows_of(tmp_path, "all.csv")
    assert target.read_text() == "kept"
    part.write_bytes(content)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        rows_of(tmp_path, "folder.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "folder.csv", "out"]
    assert Format.registered().keys() >= {"csv"}


def test_a_format_for_other_rows_is_refused_and_the_longest_end_of_a_name_counts(commit, tmp_path):
    commit("1", a=("f", 0, 1))
    with pytest.raises(SpecError, match=r"out: format openai_batch: the rows have no answers, .*task chat"):
        rows_of(tmp_path, "all.jsonl", "openai_batch")
    assert not (tmp_path / "all.jsonl").exists()
    names = {name: format_of(name).name for name in ("a.batch.jsonl", "a.batch.jsonl.gz", "batch.jsonl", "a.jsonl.zst")}
    assert list(names.values()) == ["openai_batch", "openai_batch", "jsonl", "jsonl"]
