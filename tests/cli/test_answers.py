"""The table of a small job's answers."""

from corm_batch.cli.answers import print_answers, print_missed
from corm_batch.cli.console import output_console
from corm_batch.evaluation.expected import Expected, Missed, Scores

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
    expected = Expected("right", {"a": "Rome", "b": "Lima", "c": "17"})
    rows = [ANSWERED, FAILED, ANSWERED | {"doc_id": "c", "output": " 17\n"}, ANSWERED | {"doc_id": "d"}]
    drawn = cells(capsys, rows, expected)
    assert [(row[4], row[6]) for row in drawn] == [
        ("differs", "Rome"),
        ("failed", "Lima"),
        ("exact", "17"),
        ("ok", "-"),
    ]


def test_each_of_several_answers_beside_its_own_right_one(capsys):
    expected = Expected("right", {"a": ["Oslo", None, "17"]})
    lists = ["Oslo", "x", "18"], ["Oslo ", None, "17"], ["Oslo"]
    rows = [ANSWERED | {"output": "[...]", "questions": ["?"] * 3, "answers": answers} for answers in lists]
    rows += [ANSWERED | {"output": said, "question_number": place} for place, said in enumerate(lists[0])]
    drawn = cells(capsys, rows, expected)
    assert [row[4] for row in drawn] == ["1 of 2 exact", "exact", "differs", "exact", "ok", "differs"]
    assert [row[6] for row in drawn] == ["#0: Oslo; #2: 17"] * 3 + ["Oslo", "-", "17"]
    assert [row[0] for row in drawn[3:]] == ["a #0", "a #1", "a #2"]


def test_what_was_missed_and_how_far_it_is(capsys):
    missed = tuple(Missed(f"d{place}", "year", "1999", "it was 1998", 0.25) for place in range(25))
    print_missed(output_console(), Scores("right", "exact", "f1", 31, {"exact": 0.2}, 25, missed, 0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Missed by exact: 25 of 31"
    assert [cell.strip() for cell in lines[1].split("|")] == ["document", "about", "expected", "answered", "F1"]
    assert [cell.strip() for cell in lines[3].split("|")] == ["d0", "year", "1999", "it was 1998", "0.250"]
    assert lines[-2] == "5 others are not shown; the page of report --html has more"


def test_nothing_is_said_of_what_was_missed_where_nothing_was(capsys):
    print_missed(output_console(), Scores("right", "exact", "f1", 3, {"exact": 1.0}, 0, (), 0))
    assert capsys.readouterr().out == ""
