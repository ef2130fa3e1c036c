"""Rows of totals."""

import json
from dataclasses import replace

import pytest

from corm_batch.output.committed import JobSettings, read_committed
from corm_batch.report.comparison import compare
from corm_batch.report.job_report import build_report
from corm_batch.report.listed_documents import DocumentFigures
from corm_batch.report.totals import compared_rows, outcome_text, policy_text, shared_rows, status_text, totals_rows
from tests.outputs import answered, commit, failed


@pytest.fixture
def figures(tmp_path):
    failures = [{"field": name, "reason": "no number"} for name in ("year", "price")]
    committed = read_committed(commit(tmp_path, [answered("a", failed_fields=failures), failed("b")]))
    return build_report(committed)


def test_totals(figures):
    rows = dict(totals_rows(figures))
    assert rows["documents"] == "1 ok, 1 failed, written by 1 run"
    assert rows["failed fields"] == "1 document with fields of no usable answer; the column failed_fields tells"
    assert rows["policy"] == "corm window=64"
    assert rows["KV bytes full -> peak"] == "8.0 MiB -> 2.0 MiB, 75.0% saved"
    assert rows["throughput"] == "- (no run has left the record that it writes at its end)"


def test_a_form_of_entries_that_is_not_the_models_own_is_told(figures):
    def told(*names):
        jobs = [
            JobSettings("a", {"engine": {"storage": {"name": name}}}, 2 + place) for place, name in enumerate(names)
        ]
        return dict(totals_rows(replace(figures, jobs=tuple(jobs)))).get("stored as")

    assert (told("model"), told("int8")) == (None, "int8")
    assert told("int8", "model") == "model (3 documents), int8 (2 documents)"


def test_many_policies_are_not_all_listed(figures):
    many = tuple(f'{{"name": "p{number:02}"}}' for number in range(15))
    policies = [text for name, text in totals_rows(replace(figures, policies=many)) if name == "policy"]
    assert policies == [*(f"p{number:02}" for number in range(10)), "and 5 others"]


def test_policy_without_its_defaults():
    assert policy_text('{"name": "corm", "tau": 2.0, "budget": null}') == "corm tau=2.0"
    nested = '{"name": "h2o", "budget": {"name": "adakv", "max_kept": 9, "floor": 0.2}, "recent": 4}'
    assert policy_text(nested) == "h2o budget=(adakv max_kept=9 floor=0.2) recent=4"


def test_pins_are_said_where_there_are_any():
    policy = {"name": "corm", "pin_first": 0, "pin_instruction": False, "reach": 0}
    assert policy_text(json.dumps(policy)) == "corm reach=0"
    pinned = policy | {"pin_first": 4, "pin_instruction": True}
    assert policy_text(json.dumps(pinned)) == "corm pin_first=4 pin_instruction=True reach=0"


def test_two_outputs(tmp_path):
    here = commit(tmp_path / "here", [answered("a"), answered("b"), failed("c")])
    there = commit(tmp_path / "there", [answered("a", kv_bytes_peak=8 * 2**20), failed("b"), answered("d")])
    found = compare(*(read_committed(output, answers=True) for output in (here, there)), 10)
    counts = dict(shared_rows(found))
    assert (counts["only here"], counts["only there"], counts["in both"]) == (1, 1, 2)
    assert (counts["in both: failed there"], counts["in both: same answer"]) == (1, 1)
    assert ("saved", "75.0%", "0.0%") in compared_rows(found)
    assert ("KV bytes peak", "2.0 MiB", "8.0 MiB") in compared_rows(found)


def test_status_of_an_answer():
    rows = [{"finish_reason": "length"}, {"truncated": True}, {"repetition": 0.8, "finish_reason": "length"}, {}]
    assert [status_text({"status": "ok"} | row) for row in rows] == ["cut off", "part read", "looping", "ok"]
    partly = {"failed_fields": [{"field": "year", "reason": "no"}], "finish_reason": "length", "truncated": True}
    assert status_text({"status": "ok"} | partly) == "cut off, part read, failed fields"
    assert status_text({"status": "ok", "failed_fields": 2}) == "failed fields"
    assert status_text({"status": "failed", "finish_reason": "length"}) == "failed"


def test_outcomes():
    assert outcome_text(DocumentFigures("a", answer="two\nlines"), 20) == "two lines"
    assert outcome_text(DocumentFigures("a", answer="{half", error_type="E", error_message="why"), 20) == "E: why"
