import pytest

from corm_batch.data.document import Document
from corm_batch.data.sources.base import Split
from corm_batch.output.ledger import Ledger
from corm_batch.output.rows import DocumentRow
from corm_batch.pipeline.intake import Intake
from corm_batch.tasks.base import Task


class Memory:
    """A source in memory."""

    def __init__(self, documents):
        self.documents = documents

    def read(self, split, columns):
        return iter(self.documents)


class Known(Ledger):
    """A ledger that was told."""

    def __init__(self, **states):
        super().__init__(None, "job")
        self.states = states

    def state(self, document):
        return self.states.get(document.doc_id, "new")


def taken(source, rows, ledger=None, *, retry_failed=False):
    """What comes out: ids, how an earlier run ended it, or (id, message) of a failed row."""
    task = Task.from_spec({"name": "summarize"})
    intake = Intake(source, task, [Split("x", 0, 3)], ledger or Known(), rows, retry_failed=retry_failed)
    return [summary(item) for item in intake]


def summary(item):
    if isinstance(item, DocumentRow):
        return item.result["doc_id"], item.result["error_message"]
    return item.doc_id if isinstance(item, Document) else item


def test_rows_that_can_only_fail(rows):
    documents = [Document("a", "text"), Document("b", None, problem="column 'text' is null"), Document("c", "text")]
    assert taken(Memory(documents), rows) == ["a", ("b", "column 'text' is null"), "c"]


def test_duplicate_ids_get_rows_of_their_own(rows):
    documents = [Document("a", str(number), origin=f"row {number}") for number in range(3)]
    first, second, third = taken(Memory(documents), rows)
    assert first == "a"
    assert (second[0], third[0]) == ("a#duplicate-1", "a#duplicate-2")
    assert "'a'" in second[1]
    assert "row 1" in second[1]


@pytest.mark.parametrize(("retry_failed", "expected"), [(False, ["ok", "failed", "c"]), (True, ["ok", "b", "c"])])
def test_done_documents_are_passed_over(rows, retry_failed, expected):
    source = Memory([Document(name, "text") for name in "abc"])
    assert taken(source, rows, Known(a="ok", b="failed"), retry_failed=retry_failed) == expected


def test_total_is_the_rows_of_all_splits_if_all_can_say(rows):
    task = Task.from_spec({"name": "summarize"})
    splits = [Split("x", 0, 3), Split("x", 1, 4)]
    assert Intake(Memory([]), task, splits, Known(), rows, retry_failed=False).total == 7
    assert Intake(Memory([]), task, [*splits, Split("y", 0)], Known(), rows, retry_failed=False).total is None
