import pytest

from infra.measure.audit_bound import KINDS, Kind, simulate


@pytest.mark.parametrize(
    ("kind", "jobs"),
    [
        (Kind(600, 0.05, (0.1,), "long"), 200),
        (Kind(600, 0.02, (0.3, 0.05), "long"), 100),
        (Kind(300, 0.05, (1.0,), "long"), 50),
        (Kind(600, 0.02, (0.1,), lost=0.1), 50),
    ],
    ids=str,
)
def test_what_is_stated_is_true_and_no_job_as_good_as_allowed_is_stopped(kind, jobs):
    found = simulate(kind, jobs)
    assert found["true"] >= 0.95
    assert found["stopped"] <= 0.05


def test_a_bad_job_is_stopped_early_and_what_it_states_is_true_all_the_same():
    found = simulate(Kind(600, 0.4, (0.3,), "long"), 20)
    assert found["stopped"] == 1
    assert found["after"] < 0.5
    assert found["true_stopped"] >= 0.95


def test_every_kind_differs_from_every_other():
    assert len(set(KINDS)) == len(KINDS) > 10
