"""What the account of a chaos series finds wrong."""

import pytest

from infra.chaos.account import Bounds, account

BOUNDS = Bounds(in_flight=2, replicas=2, part=1)
OK = ("ok", "answer", None)


def begin(document, driver=1, actor=10):
    return {"event": "begin", "document": document, "driver": driver, "actor": actor}


def row(document, driver=1):
    return {"event": "row", "document": document, "driver": driver, "run": f"run-{driver}"}


def fault(kind, driver=0, actors=()):
    return {"event": "fault", "kind": kind, "driver": driver, "actors": list(actors)}


def found(*journal, rows=(("a", "run-2", OK),), killers=(), expected=None):
    entries = [{"at": float(at), **entry} for at, entry in enumerate(journal)]
    return account(entries, rows, expected or {"a": OK}, set(killers), BOUNDS)


def test_lost_duplicated_and_different():
    rows = [("a", "1", OK), ("a", "2", OK), ("b", "1", ("failed", None, "EngineDied"))]
    result = found(rows=rows, expected={"a": OK, "b": OK, "c": OK})
    assert (result.documents, result.lost, result.duplicated, result.different) == (3, 1, 1, 1)
    assert not result.passed
    assert found(begin("a")).passed


@pytest.mark.parametrize(
    ("journal", "kind"),
    [
        ([begin("a"), fault("actor", actors=[10]), begin("a", actor=11)], "actor"),
        ([begin("a"), fault("driver", driver=1), begin("a", driver=2)], "driver"),
        ([begin("a"), row("a"), fault("driver", driver=1), begin("a", driver=2)], "driver"),
        ([begin("a"), fault("terminate", driver=1), begin("a", driver=2)], "terminate"),
        ([fault("freeze", driver=1), begin("a"), begin("a", driver=2)], "freeze"),
    ],
)
def test_what_a_fault_interrupted_may_be_begun_again(journal, kind):
    result = found(*journal)
    assert (result.recomputed, result.violations, result.worst) == (1, [], {kind: 1})


def test_neighbours_of_a_document_that_kills_may_be_begun_again():
    result = found(begin("a"), begin("killer"), begin("a", actor=11), killers=["killer"])
    assert (result.by_documents, result.violations) == (1, [])


@pytest.mark.parametrize(
    ("journal", "rows"),
    [
        ([begin("a"), begin("a", actor=11)], [("a", "run-1", OK)]),  # nothing had happened
        ([begin("a"), fault("actor", actors=[99]), begin("a", actor=11)], [("a", "run-1", OK)]),  # to another
        (
            [begin("a"), row("a"), fault("driver", driver=1), begin("a", driver=2)],
            [("a", "run-1", OK)],  # it was committed
        ),
        (
            [begin("a"), row("a"), fault("terminate", driver=1), begin("a", driver=2)],
            [("a", "run-2", OK)],  # finished, and there was time to commit it
        ),
    ],
)
def test_anything_else_is_a_violation(journal, rows):
    result = found(*journal, rows=rows)
    assert len(result.violations) == 1
    assert not result.passed


def test_more_than_the_bound_is_a_violation():
    names = ["a", "b", "c"]
    journal = [*map(begin, names), fault("actor", actors=[10]), *(begin(name, actor=11) for name in names)]
    assert "3 in flight" in found(*journal).violations[0]
    journal = [*map(begin, names[:2]), fault("actor", actors=[10]), *(begin(name, actor=11) for name in names[:2])]
    assert found(*journal).passed
