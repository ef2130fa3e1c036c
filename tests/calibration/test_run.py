"""A whole calibration: rounds, the final, the time, what is kept."""

import random
import time

import pytest

from corm_batch.calibration.run import run_calibration
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.errors import SpecError
from tests.calibration.races import Table, make_race

SHARES = {"harsh": 0.1, "good": 0.3, "safe": 0.6, "idle": 1.03, "lossy": 0.4, "broken": 0.2}
MEANS = {"harsh": 0.5, "good": 0.003, "safe": 0.001, "idle": 0.0, "lossy": 0.05}


def lose(label, doc_id):
    if label == "broken":
        return None
    return MEANS[label] * random.Random(f"{label} {doc_id}").uniform(0.6, 1.4)


def calibrated(job, tmp_path, table=None, count=24, **plan):
    table = table or Table(lose, SHARES)
    made, race = make_race(job, table, tmp_path / "answers", count, **plan)
    return run_calibration(made, race, time.monotonic()), table, race


def test_the_fewest_bytes_within_the_limit_win_on_documents_that_did_not_choose_them(job, tmp_path):
    told = []
    table = Table(lose, SHARES)
    plan, race = make_race(job, table, tmp_path / "answers")
    result = run_calibration(plan, race, time.monotonic(), told.append)
    assert result.chosen == "good"
    assert (result.chosen_on, result.held_out, result.unanswered) == (12, 12, 0)
    assert result.of("full").chosen_on.documents == 24
    assert result.of("full").chosen_on.mean == pytest.approx(0.0)
    good = result.of("good")
    assert good.held_out.documents == 12
    assert good.held_out.mean == pytest.approx(0.003, rel=0.3)
    assert good.held_out.low < good.held_out.mean < good.held_out.high <= result.limit
    assert (good.changed, good.compared) == (0, 12)  # within the arithmetic's noise
    assert good.changed_at_most == pytest.approx(1 - 0.05 ** (1 / 12))
    assert good.peak_ratio == pytest.approx(0.3, rel=1e-3)
    assert good.documents_per_hour == pytest.approx(1800)
    states = {one.label: one.state for one in result.tried}
    assert states == {
        "full": "full cache", "harsh": "dropped", "good": "chosen", "safe": "within", "idle": "keeps all",
        "lossy": "dropped", "broken": "failed",
    }  # fmt: skip
    assert "no room" in result.of("broken").failure
    chose, confirmed = set(race.exams) - {d for d, _ in table.scored[-12:]}, {d for d, _ in table.scored[-12:]}
    assert len(chose) == len(confirmed) == 12
    assert told[-1].stage == told[-1].stages == 2
    assert told[-1].policies == 2


def test_a_finalist_that_is_not_confirmed_gives_way_to_a_safer_one(job, tmp_path):
    """What loses more on the documents that confirm than on those that chose it is not promised."""
    table = Table(lambda label, doc_id: 0.0, {"tempting": 0.2, "safe": 0.6})
    seen = []

    def later(label, doc_id):
        seen.extend([doc_id] if doc_id not in seen else [])
        bad = seen.index(doc_id) >= 12
        wobble = random.Random(f"{label}{doc_id}").uniform(-1, 1)
        return {"tempting": 0.05 if bad else 0.006 + 0.01 * wobble, "safe": 0.002 + 0.001 * wobble}[label]

    table.lose = later
    result, *_ = calibrated(job, tmp_path, table)
    assert result.chosen == "safe"
    assert {one.label: one.state for one in result.tried}["tempting"] == "above"


def test_it_says_so_when_nothing_meets_the_limit(job, tmp_path):
    result, *_ = calibrated(job, tmp_path, Table(lose, {"harsh": 0.1, "lossy": 0.4, "idle": 1.03}))
    assert (result.chosen, result.best) == (None, "lossy")
    assert result.of("lossy").held_out.high > result.limit


def test_where_nothing_frees_anything_there_is_no_final(job, tmp_path):
    result, *_ = calibrated(job, tmp_path, Table(lose, {"idle": 1.03}))
    assert (result.chosen, result.best, result.held_out) == (None, None, 0)


def test_what_was_measured_is_not_measured_again(job, tmp_path, monkeypatch):
    class Interrupting(Table):
        def score(self, policies, requests):
            for found in super().score(policies, requests):
                if len(self.scored) > 7:
                    raise KeyboardInterrupt
                yield found

    plan, race = make_race(job, Interrupting(lose, SHARES), tmp_path / "answers", 12)
    with pytest.raises(KeyboardInterrupt):
        run_calibration(plan, race, time.monotonic())
    table, fresh = Table(lose, SHARES), Table(lose, SHARES)
    result, *_ = calibrated(job, tmp_path, table, 12)
    calibrated(job, tmp_path / "other", fresh, 12)
    assert len(table.scored) <= len(fresh.scored) - 6
    assert [one.label for one in result.tried if one.state == "chosen"] == ["good"]
    again = Table(lose, {name: share for name, share in SHARES.items() if name != "broken"})
    calibrated(job, tmp_path, again, 12)
    assert not again.scored
    assert not again.engines


@pytest.fixture
def now(monkeypatch):
    """A clock that only scoring moves."""
    seconds = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return seconds


def test_it_ends_in_its_time_and_the_final_has_half_of_it(job, tmp_path, now):
    table = Table(lose, {"good": 0.3, "safe": 0.6}, now, seconds=2.0)
    result, *_ = calibrated(job, tmp_path, table, 96, minutes=1)
    assert 50 < now[0] == result.seconds <= 57  # a little is left for documents that take longer
    assert 10 <= result.chosen_on <= 15
    assert 10 <= result.held_out <= 18


def test_without_time_for_the_final_nothing_is_promised(job, tmp_path, now):
    result, *_ = calibrated(job, tmp_path, Table(lose, {"good": 0.3}, now, seconds=25.0), minutes=1)
    assert result.chosen is None
    assert [one.state for one in result.tried] == ["full cache", "not confirmed"]


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_documents_are_refused(job, tmp_path, count):
    with pytest.raises(SpecError, match=f"source: {count} usable documents: half of them choose"):
        calibrated(job, tmp_path, count=count)


def test_six_documents_are_enough_to_begin_with(job, tmp_path):
    result, *_ = calibrated(job, tmp_path, count=6)
    assert (result.chosen_on, result.held_out) == (3, 3)


def test_documents_without_an_answer_are_counted(job, tmp_path, monkeypatch):
    class Refusing(Table):
        def full(self):
            engine = super().full()
            engine._decode = lambda ids: "@error" if len(ids) % 3 == 0 else ""
            return engine

    result, *_ = calibrated(job, tmp_path, Refusing(lose, SHARES))
    assert result.unanswered > 0
    assert result.reasons == ["scripted refusal"]
    monkeypatch.setattr(Refusing, "full", lambda self: ScriptedEngine(lambda ids: "@error"))
    with pytest.raises(SpecError, match="no document that was tried has an answer: scripted refusal"):
        calibrated(job, tmp_path / "other", Refusing(lose, SHARES))
