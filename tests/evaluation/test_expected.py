"""Right answers of every form beside the answers of an output."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.data.parts import encode_part
from corm_batch.data.schema import column
from corm_batch.data.sources.base import Source
from corm_batch.errors import SpecError
from corm_batch.evaluation.expected import Case, Expected
from tests.outputs import answered, commit, failed

OK = {"status": "ok", "output": "Oslo"}


def cases(right, **row):
    return Expected("right", {"a": right}).cases({"doc_id": "a", **OK, **row})


def test_of_one_answer_any_of_a_list_is_right_and_null_is_unknown():
    assert cases("Rome") == [Case("", ("Rome",), "Oslo")]
    assert cases(["Rome", None, "Oslo"]) == [Case("", ("Rome", "Oslo"), "Oslo")]
    assert cases(3.0, output="3") == [Case("", ("3",), "3")]
    assert cases(None) == cases([None]) == cases("") == cases([" ", None]) == cases(math.nan) == []
    assert cases(["", "Oslo"]) == [Case("", ("Oslo",), "Oslo")]
    assert Expected("right", {}).cases({"doc_id": "a", **OK}) == []


def test_a_failed_row_has_said_nothing_whatever_its_output_holds():
    (case,) = cases("Oslo", status="failed")
    assert case.said is None
    assert [case.score(metric) for metric in ("exact", "contains", "f1", "rouge_l")] == [0.0] * 4


def test_answers_of_several_questions_go_by_place():
    asked = {"questions": ["a", "b", "c"]}
    found = cases(["Oslo", None, ["17", "seventeen"]], answers=["Oslo", "x", "17 "], **asked)
    assert found == [Case("#0", ("Oslo",), "Oslo"), Case("#2", ("17", "seventeen"), "17 ")]
    assert [case.said for case in cases(["Oslo", "17"], answers=["Oslo"], **asked)] == [None, None]
    assert [case.said for case in cases(["Oslo"], answers=None, status="failed", **asked)] == [None]


def test_of_several_answers_to_one_prompt_each_is_compared_and_a_list_has_right_ones_of_which_any_counts():
    assert cases(["Rome", "Oslo"], answers=["Oslo"]) == [Case("", ("Rome", "Oslo"), "Oslo")]
    drawn = {"output": '["Oslo", null]', "answers": ["Oslo", None]}
    assert cases("Oslo", **drawn) == [Case("#0", ("Oslo",), "Oslo"), Case("#1", ("Oslo",), None)]
    assert [case.right for case in cases(["Rome", "Oslo", "Bern"], **drawn)] == [("Rome", "Oslo", "Bern")] * 2
    assert cases("Oslo", status="failed", answers=None) == [Case("", ("Oslo",), None)]
    row = {"place": drawn["output"], "place_answers": drawn["answers"]}
    assert cases({"place": ["Oslo"]}, **row) == [Case("place#0", ("Oslo",), "Oslo"), Case("place#1", ("Oslo",), None)]


def test_of_several_tasks_a_plain_answer_is_of_none():
    with pytest.raises(SpecError, match=r"--expect right: several tasks answer, and it does not say which.*not 'Oslo'"):
        Expected("right", {"a": {"place": "Oslo"}, "b": "Oslo"}).check(["output", "place"], several=True)


def test_a_question_with_a_row_of_its_own_has_its_own_right_answer():
    assert cases(["Rome", ["Oslo", "Kristiania"]], question_number=1) == [Case("#1", ("Oslo", "Kristiania"), "Oslo")]
    assert cases(["Rome"], question_number=1) == []
    assert cases("Oslo", question_number=1) == [Case("#1", ("Oslo",), "Oslo")]


def test_a_struct_says_what_each_column_should_hold():
    row = {"year": 1999, "net": 1.5, "paid": True, "who": ["A", "B"], "where": None, "when": "May"}
    right = {"year": 1999.0, "net": 15, "paid": True, "who": ["A", "B"], "where": "Oslo", "when": ["may", "May"]}
    found = {case.about: case for case in cases({**right, "unknown": None}, **row)}
    assert {name: case.score("exact") for name, case in found.items()} == {
        "year": 1.0, "net": 0.0, "paid": 1.0, "who": 1.0, "where": 0.0, "when": 1.0,
    }  # fmt: skip


def test_a_struct_leads_into_the_columns_of_several_tasks():
    row = {
        "summary": "s",
        "facts": "{...}",
        "facts_year": 1999,
        "asked": "[...]",
        "asked_answers": ["x", "y"],
        "asked_questions": ["p", "q"],
    }
    found = cases({"summary": "t", "facts": {"year": 1998}, "asked": ["x", "z"]}, **row)
    assert [(case.about, case.said) for case in found] == [
        ("summary", "s"), ("facts_year", "1999"), ("asked#0", "x"), ("asked#1", "y"),
    ]  # fmt: skip


def test_a_struct_with_what_no_answer_has_is_refused():
    expected = Expected("right", {"a": {"year": 1, "facts": {"x": 1}}})
    expected.check(["output", "year", "facts_x"], several=True)
    with pytest.raises(SpecError, match=r"--expect right: it says what 'facts' is.*they have: output, year$"):
        expected.check(["doc_id", "output", "year"], several=False)


def test_scores_count_failures_and_list_the_furthest_first(tmp_path):
    rows = [answered("a", output="in Oslo, Norway"), answered("b", output="Bergen"), failed("c"), answered("d")]
    commit(tmp_path, [answered("a", output="Rome")])
    commit(tmp_path, rows, number=1)
    expected = Expected("right", {"a": "Oslo", "b": "Bergen", "c": "Moss", "e": "Lom"})
    found = expected.scores(str(tmp_path))
    assert (found.cases, found.num_missed, found.no_row) == (3, 2, 1)
    assert found.means == pytest.approx({"exact": 1 / 3, "contains": 2 / 3, "f1": 0.5, "rouge_l": 0.5})
    assert [(one.doc_id, one.expected, one.answered, one.score) for one in found.missed] == [
        ("c", "Moss", "DocumentError: is empty", 0.0),
        ("a", "Oslo", "in Oslo, Norway", 0.5),
    ]
    assert [one.doc_id for one in expected.scores(str(tmp_path), "contains").missed] == ["c"]
    assert Expected("right", {}).scores(str(tmp_path)).means == {}


def test_right_answers_are_read_from_the_source(tmp_path):
    rows = [
        {"doc_id": "a", "text": "t", "right": "17", "number": 4},
        {"doc_id": "b", "text": "t", "right": None, "number": 5},
        {"doc_id": "a", "text": "again", "right": "18", "number": 6},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "docs.parquet")
    source = Source.from_spec({"name": "parquet", "uri": str(tmp_path / "docs.parquet")})
    assert Expected.read(source, "right").answers == {"a": "17"}
    assert Expected.read(source, "number").answers == {"a": 4, "b": 5}
    with pytest.raises(SpecError, match=r"--expect wrong: .*right \(string\)"):
        Expected.read(source, "wrong")


def test_a_column_that_rows_carry_needs_no_source(tmp_path):
    commit(tmp_path, [answered("z")], after_s=10)
    carried = column("right", pa.list_(pa.string()), "", detail="carried over")
    rows = pa.table({"doc_id": ["a"], "status": ["ok"], "question_number": pa.nulls(1, pa.int64())})
    rows = rows.append_column(carried, pa.array([["x", "y"]], carried.type))
    (tmp_path / "results" / "part-z-000000.parquet").write_bytes(encode_part(rows, "parquet"))
    assert Expected.of_output(str(tmp_path), "right").answers == {"a": ["x", "y"]}
    with pytest.raises(SpecError, match=r"--expect output: no row here has it, nor is its source known: .*spec"):
        Expected.of_output(str(tmp_path), "output")


def test_a_column_that_rows_carry_is_no_answer_whatever_it_is_called(tmp_path):
    commit(tmp_path, [answered("a", output="Rome")])
    of_source = [column(name, pa.list_(pa.string()), "", detail="carried over") for name in ("answers", "questions")]
    part = next((tmp_path / "results").iterdir())
    rows = pq.read_table(part)
    for field in of_source:
        rows = rows.append_column(field, pa.array([["Oslo"]], field.type))
    part.write_bytes(encode_part(rows, "parquet"))
    found = Expected.of_output(str(tmp_path), "answers").scores(str(tmp_path))
    assert (found.cases, found.means["exact"]) == (1, 0.0)
    with pytest.raises(SpecError, match="no such column"):
        Expected("right", {"a": {"answers": "Oslo"}}).scores(str(tmp_path))
