"""Policies at equal shares are policies, and a record becomes a table of what each lost."""

from __future__ import annotations

import json
from types import SimpleNamespace

from corm_batch.cli.policy_option import read_labelled
from corm_batch.evaluation.base import Suite
from corm_batch.evaluation.paired import paired_means, paired_shares
from corm_batch.policies.base import KVPolicy
from infra.measure.policy_table import SUITES, main, over_all_lengths, policies, suites

BEGIN, END = "<!-- policies: begin -->", "<!-- policies: end -->"


def test_every_policy_and_suite_can_be_asked_for():
    found = [read_labelled("--policy", given) for given in policies([0.5, 0.15])]
    made = {label: KVPolicy.from_spec(fields) for label, fields in found}
    assert len(made) == len(found) == 1 + 2 * 13
    assert {one.budget.max_kept for one in made.values() if one.budget} == {0.5, 0.15}
    for position in ("after", "hidden"):
        made = [Suite.from_spec(read_labelled("--suite", given)[1]) for given in suites(position)]
        assert [one.position for one in made] == [position] * 3
    assert tuple(suites("after")) == SUITES


def test_a_table_shows_all_lengths_or_the_only_one():
    def figure(suite, group, score):
        return SimpleNamespace(suite=suite, group=group, score=score)

    wanted = [figure("needles", "all", "said"), figure("books", "documents 512", "logprob")]
    others = [figure("needles", "facts 512", "said"), figure("needles", "all", "exact")]
    assert over_all_lengths(SimpleNamespace(figures=[*others, *wanted])) == wanted


def test_a_record_becomes_a_table(tmp_path):
    def row(suite, task, score, candidate, there, peak):
        share = suite == "needles"
        here = [1.0, 1.0, 0.0, 1.0]
        paired = paired_shares if share else paired_means
        cost = {"kept_ratio": peak / 2, "peak_ratio": peak, "full_peak_ratio": 1.0}
        return {"suite": suite, "task": task, "score": score, "share": share, "candidate": candidate, "policy": {},
                "against": paired(here, there).model_dump(), "floor": paired(here, here).model_dump(),
                "same_text": None, "floor_same_text": None, "failed": 0, "cost": cost}  # fmt: skip

    rows = [
        row("needles", task, "said", label, there, peak)
        for task in ("all", "pass_key")
        for label, there, peak in (("small", [0.0] * 4, 0.25), ("large", [1.0, 1.0, 0.0, 0.0], 0.5))
    ] + [row("books", "likelihood", "logprob", "small", [0.5, 0.5, -0.5, 0.5], 0.25)]
    record = {"model": {"name": "jobs/x", "dtype": "float32"}, "device": "CPU", "cases": 2, "lengths": [1024, 2048]}
    after = {"position": "question after the document"}
    (tmp_path / "r.json").write_text(json.dumps(record | {"rows": rows} | after))
    document = tmp_path / "d.md"
    document.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    (tmp_path / "hidden.json").write_text(json.dumps(record | {"rows": rows, "position": "question hidden"}))
    records = [part for name in ("r", "hidden") for part in ("--record", str(tmp_path / f"{name}.json"))]
    main([*records, "--document", str(document)])
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("above", "below", False)
    asked = "jobs/x, float32, CPU; 2 cases of each task and of each of 1,024, 2,048 tokens; question"
    assert [line for line in lines if line.startswith("jobs/x")] == [f"{asked} after the document.", f"{asked} hidden."]
    assert "| policy | kept | peak/full | pass_key | books, nats |" in lines
    assert "| full, score | | | 75.0% | 0.750 |" in lines
    large, small = (
        next(i for i, line in enumerate(lines) if line.startswith(f"| {one} |")) for one in ("large", "small")
    )
    assert large < small
    assert lines[large].startswith("| large | 25.0% | 50.0% | -25.0 (")
    assert lines[small].endswith("| -0.500 |")
