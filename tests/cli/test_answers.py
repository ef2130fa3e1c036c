"""The table of a small job's answers."""

import pyarrow as pa
import pytest

from corm_batch.cli.answers import Expected, print_answers
from corm_batch.cli.console import output_console
from corm_batch.errors import SpecError
from corm_batch.spec import JobSpec

ANSWERED = {
    "doc_id": "a",
    "status": "ok",
    "output": "Oslo\nor \x1b[1mBergen",
    "prompt_tokens": 11_990,
    "output_tokens": 10,
    "kv_bytes_full": 8 * 2**20,
    "kv_bytes_peak": 2 * 2**20,
}
FAILED = dict.fromkeys(ANSWERED) | {
    "doc_id": "b",
    "status": "failed",
    "error_type": "DocumentError",
    "error_message": "is empty",
}


def cells(capsys, rows, expected=None):
    """The drawn rows as lists of cells, below the title, the head and the rule."""
    print_answers(output_console(), rows, expected)
    lines = capsys.readouterr().out.splitlines()[3 : 3 + len(rows)]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_figures_of_an_answer(capsys):
    (row,) = cells(capsys, [ANSWERED])
    assert row == ["a", "12.0k", "8.0 -> 2.0 MiB", "75.0%", "ok", "Oslo or [1mBergen"]


def test_a_failed_document_says_why(capsys):
    (row,) = cells(capsys, [FAILED])
    assert row == ["b", "-", "-", "-", "failed", "DocumentError: is empty"]


def test_answer_beside_what_is_expected(capsys):
    expected = Expected({"a": "Rome", "b": "Lima", "c": "17"})
    rows = [ANSWERED, FAILED, ANSWERED | {"doc_id": "c", "output": " 17\n"}, ANSWERED | {"doc_id": "d"}]
    drawn = cells(capsys, rows, expected)
    assert [(row[4], row[6]) for row in drawn] == [
        ("differs", "Rome"),
        ("failed", "Lima"),
        ("exact", "17"),
        ("ok", "-"),
    ]


def test_each_of_several_answers_beside_its_own_right_one(capsys):
    expected = Expected({"a": ["Oslo", None, "17"]})
    lists = ["Oslo", "x", "18"], ["Oslo ", None, "17"], ["Oslo"]
    rows = [ANSWERED | {"output": "[...]", "answers": answers} for answers in lists]
    rows += [ANSWERED | {"output": said, "question_number": place} for place, said in enumerate(lists[0])]
    drawn = cells(capsys, rows, expected)
    assert [row[4] for row in drawn] == ["1 of 2 exact", "exact", "differs", "exact", "ok", "differs"]
    assert [row[6] for row in drawn] == ['["Oslo", "-", "17"]'] * 3 + ["Oslo", "-", "17"]
    assert [row[0] for row in drawn[3:]] == ["a #0", "a #1", "a #2"]
    assert expected.verdict(pa.Table.from_pylist(rows[3:])) == "1 of 2 equal what is expected"
    assert Expected({"a": ["Oslo"]}).matches(rows[2]) == [True]


def test_expected_is_read_from_the_source(write_job):
    job = write_job(
        [
            {"doc_id": "a", "text": "t", "right": "17", "number": 4},
            {"doc_id": "b", "text": "t", "right": None, "number": 5},
        ]
    )
    source = JobSpec.load(str(job)).source
    assert Expected.read(source, "right") == Expected({"a": "17"})
    assert Expected.read(source, "number") == Expected({"a": "4", "b": "5"})
    with pytest.raises(SpecError, match=r"--expect wrong: .*right \(string\)"):
        Expected.read(source, "wrong")
