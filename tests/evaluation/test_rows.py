"""Files that suites read: every kind gives the same rows, and what is wrong with one is said with its place."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.errors import SourceError
from corm_batch.evaluation.rows import read_rows

ROWS = [{"a": 1, "b": "x, y"}, {"a": 2, "b": "two\nlines"}]


@pytest.fixture
def write(tmp_path):
    """Call with a file's name and content; its path."""

    def call(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return call


def test_parquet_and_json_lines_give_the_same_rows(write, tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(lines.encode())
    files = [
        str(tmp_path / "t.parquet"),
        write("t.jsonl", "\ufeff" + lines + "\n"),
        write("t.jsonl.gz", gzip.compress(lines.encode())),
        write("t.jsonl.zst", packed.getvalue().to_pybytes()),
    ]
    for file in files:
        found = list(read_rows(file, ["b"]))
        assert [row.values for row in found] == ROWS, file
        assert [row.origin for row in found] == [f"{file}, row 0", f"{file}, row 1"]


def test_csv_is_text_and_json_lines_end_with_a_line_break_alone(write):
    csv = write("t.csv", 'a,b,c\n007,"x, y",\n1.10,"two\nlines",yes\n')
    assert [row.values for row in read_rows(csv, ["b"])] == [
        {"a": "007", "b": "x, y", "c": ""}, {"a": "1.10", "b": "two\nlines", "c": "yes"}
    ]  # fmt: skip
    (row,) = read_rows(write("t.jsonl", '{"a": "x\u2028y\x85z"}\r\n'), ["a"])
    assert row.text("a") == "x\u2028y\x85z"


def test_a_text_file_is_one_row_and_a_folder_is_all_its_files(write, tmp_path):
    write("b.txt", "Noon.")
    write("a.jsonl", '{"text": "One."}\n')
    assert [row.values for row in read_rows(str(tmp_path), ["text"])] == [{"text": "One."}, {"text": "Noon."}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"a": 1}\n', "t.jsonl, row 0: no column b; there are: a"),
        ("t.jsonl", '{"b": 1}\n[2]\n', "t.jsonl, row 1: the line holds no JSON object but list"),
        ("t.jsonl", '{"b": 1}\nno JSON', r"t.jsonl, row 1: the line is no JSON \(Expecting value"),
        ("t.jsonl", '{"b": 1, "b": 2}', "t.jsonl, row 0: the line gives 'b' twice in one object"),
        ("t.jsonl", '{"b": ' + "[" * 5000 + "]" * 5000 + "}", "t.jsonl, row 0: the line is no JSON"),
        ("t.jsonl", b'{"b": 1}\n{"b": "\xe9"}', "t.jsonl, row 1: it holds invalid UTF-8"),
        ("t.csv", b"a,b\n1,2\n\xe9,3\n", "t.csv, row 1: it holds invalid UTF-8"),
        ("t.csv", "a,b,b\n1,2,3\n", "t.csv: column 'b' is there twice; there are: a, b, b"),
        ("t.csv", "a,b\n1,2\n3\n", "t.csv, row 1: the row has 1 fields, and there are 2 columns"),
        ("t.csv", 'a,b\n1,"2\n3,4\n', "t.csv: the row that begins in line 2 opens a quote that nothing closes"),
        ("t.parquet", "no Parquet at all", "t.parquet: cannot be read: "),
        ("t.jsonl.gz", "no gzip", "t.jsonl.gz: cannot be read: "),
        ("t.docx", "a", r"t.docx: a file of another kind; read are: \.parquet, \.jsonl, \.csv, \.txt"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(write, name, content, message):
    with pytest.raises(SourceError, match=message):
        list(read_rows(write(name, content), ["b"]))


def test_a_column_that_parquet_has_twice_is_none(tmp_path):
    file = str(tmp_path / "t.parquet")
    pq.write_table(pa.table([[1], [2], [3]], names=["a", "b", "b"]), file)
    with pytest.raises(SourceError, match=r"t.parquet: column 'b' is there twice; there are: a, b, b"):
        list(read_rows(file, ["b"]))
    (row,) = read_rows(file, ["a"])
    assert row.values["a"] == 1


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(SourceError, match=f"{tmp_path}/none: no file found there; read are"):
        list(read_rows(f"{tmp_path}/none", ["b"]))


def test_values_are_text_or_lists_of_it(write):
    (row,) = read_rows(
        write("t.jsonl", '{"a": "x", "b": [1, "y"], "c": null, "d": [], "e": " ", "f": [3.0, "", NaN, 2.5]}'), []
    )
    assert (row.text("a"), row.texts("a"), row.texts("b")) == ("x", ("x",), ("1", "y"))
    with pytest.raises(SourceError, match="row 0: b: expected text, got list"):
        row.text("b")
    assert row.texts("f") == ("3", "2.5")
    for name in "cde":
        with pytest.raises(SourceError, match=f"row 0: {name}: expected text or a list of texts, got"):
            row.texts(name)
