"""corm-batch export: the newest rows of an output as one file."""

import json

import pytest
from pyarrow import csv


def test_a_file_of_all_rows(corm_batch, write_output, tmp_path, monkeypatch):
    folder = write_output()
    result = corm_batch("export", folder, tmp_path / "all.csv")
    assert (result.code, result.out.strip()) == (0, f"3 rows written to {tmp_path}/all.csv")
    assert csv.read_csv(tmp_path / "all.csv")["doc_id"].to_pylist() == ["a", "b", "c"]
    monkeypatch.chdir(tmp_path)
    result = corm_batch("export", "out", "all.txt", "--format", "jsonl", "--memory", "--json")
    assert json.loads(result.out) == {"rows": 3, "file": f"{tmp_path}/all.txt"}
    rows = [json.loads(line) for line in (tmp_path / "all.txt").read_text().splitlines()]
    assert [row["kept_ratio"] for row in rows] == [0.2, 0.4, None]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("all.xml", "all.xml: the name of a file to write ends with one of .arrow"),
        ("out/results/all.csv", "out/results/all.csv: lies among the parts of the job"),
        ("ftp://x/all.csv", "ftp://x/all.csv: expected a local path or an s3:// URI"),
    ],
)
def test_a_file_that_cannot_be_is_refused(file, said, corm_batch, write_output, tmp_path, monkeypatch):
    write_output()
    monkeypatch.chdir(tmp_path)
    result = corm_batch("export", "out", file)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_what_a_format_has_no_place_for_is_refused(corm_batch, write_output, tmp_path):
    result = corm_batch("export", write_output(), tmp_path / "all.batch.jsonl", "--memory")
    assert (result.code, "--memory: lines of format openai_batch have no place for it" in result.err) == (2, True)


def test_an_output_without_rows_says_so(corm_batch, tmp_path):
    result = corm_batch("export", tmp_path, tmp_path / "all.csv")
    assert (result.code, "nothing is committed there" in result.err) == (2, True)
