import itertools
from dataclasses import replace

import pytest

from corm_batch.data.document import Document
from corm_batch.data.selection import Selection
from corm_batch.data.sources.base import Split
from corm_batch.errors import FileError, SourceError
from corm_batch.output.ledger import Ledger
from corm_batch.output.rows import DocumentRow
from corm_batch.pipeline.intake import FailedFile, Intake
from corm_batch.tasks.base import Task


class Memory:
    """A source in memory."""

    leaves_out = False

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


def test_nothing_is_held_of_documents_once_it_is_closed(rows):
    ledger = Known(a="ok")
    ledger._newest, ledger._places = {b"a": b"newest"}, {"y": {"y#1"}}
    task = Task.from_spec({"name": "summarize"})
    intake = Intake(Memory([Document("a", "text")]), task, [Split("x", 0, 1)], ledger, rows, retry_failed=False)
    assert list(intake) == ["ok"]
    assert intake._ids._seen
    intake.close()
    assert (ledger._newest, ledger._places, intake._ids._seen) == ({}, {}, set())
    assert intake.total == 1


def test_a_second_row_of_an_id_goes_by_its_place(rows):
    documents = [Document("a", str(number), origin=f"x#{number}") for number in range(3)]
    first, second, third = taken(Memory(documents), rows)
    assert first == "a"
    assert (second[0], third[0]) == ("x#1", "x#2")
    assert second[1] == "an earlier row has the id 'a' too; this one is x#1 and was not answered"
    assert [item if isinstance(item, str) else item[0] for item in taken(Memory([Document("a", "t")] * 2), rows)] == [
        "a",
        "x#0:1",
    ]


@pytest.mark.parametrize(
    "ids", [["a", "a", "a#duplicate-1"], ["a", "a", "x#1"], ["x#2", "a", None], [None, "x#0", "x#2"]]
)
def test_ids_are_the_same_in_every_order_and_never_meet(rows, ids):
    """A real id may look like one that was made up, of this source or of an output that is read as one."""
    documents = [
        Document(f"x#{place}" if doc_id is None else doc_id, "text", origin=f"x#{place}")
        for place, doc_id in enumerate(ids)
    ]
    found = {}
    for order in itertools.permutations(documents):
        names = [item if isinstance(item, str) else item[0] for item in taken(Memory(order), rows)]
        assert len(set(names)) == len(ids)
        for document, name in zip(order, names, strict=True):
            if ids.count(document.doc_id) < 2:  # which of two equal ones comes first depends on the order
                assert found.setdefault(document.origin, name) == name


def test_a_broken_file_is_named_once_and_the_next_one_is_read(rows):
    class Broken(Memory):
        def read(self, split, columns):
            yield Document(f"{split.uri}{split.index}", "text")
            if split.uri == "b":
                raise FileError(split.uri, f"cut in piece {split.index}")

    task = Task.from_spec({"name": "summarize"})
    splits = [Split("a", 0), Split("b", 0), Split("b", 1), Split("c", 0, 0), Split("d", 0)]
    intake = Intake(Broken([]), task, splits, Known(), rows, retry_failed=False)
    assert [document.doc_id for document in intake] == ["a0", "b0", "b1", "c0", "d0"]
    assert intake.failed_files == (FailedFile("b", "cut in piece 0"),)
    assert intake.empty_files == ("c",)


def test_a_store_that_is_away_ends_the_reading(rows):
    class Away(Memory):
        def read(self, split, columns):
            raise SourceError("the store is away")

    with pytest.raises(SourceError, match="is away"):
        taken(Away([]), rows)


@pytest.mark.parametrize(("retry_failed", "expected"), [(False, ["ok", "failed", "c"]), (True, ["ok", "b", "c"])])
def test_done_documents_are_passed_over(rows, retry_failed, expected):
    source = Memory([Document(name, "text") for name in "abc"])
    assert taken(source, rows, Known(a="ok", b="failed"), retry_failed=retry_failed) == expected


def test_total_is_the_rows_of_all_splits_if_all_can_say(rows):
    task = Task.from_spec({"name": "summarize"})
    splits = [Split("x", 0, 3), Split("x", 1, 4)]
    assert Intake(Memory([]), task, splits, Known(), rows, retry_failed=False).total == 7
    assert Intake(Memory([]), task, [*splits, Split("y", 0)], Known(), rows, retry_failed=False).total is None


def test_failed_rows_without_an_id_are_gone_once_their_file_is_read_to_the_end_without_them(rows):
    class Pieces(Memory):
        def read(self, split, columns):
            yield Document(f"{split.uri}#{split.index}:0", None, problem="no id", origin=f"{split.uri}#{split.index}:0")
            if split.uri == "cut":
                raise FileError(split.uri, "cut")

    class Placed(Known):
        def failed_places(self, file):
            return frozenset({f"{file}#0:0", f"{file}#0:7", f"{file}#1:7"})

    task = Task.from_spec({"name": "summarize"})
    splits = [Split("a", 0), Split("a", 1), Split("cut", 0)]
    items = list(Intake(Pieces([]), task, splits, Placed(), rows, retry_failed=False))
    assert [(item.result["doc_id"], item.result["status"]) for item in items] == [
        ("a#0:0", "failed"),
        ("a#1:0", "failed"),
        ("a#0:7", "gone"),
        ("a#1:7", "gone"),
        ("cut#0:0", "failed"),
    ]


class Counted(Memory):
    """Two pieces of three rows; what was read of them."""

    splits = (Split("a", 0, 3), Split("b", 0, 3))

    def __init__(self):
        super().__init__([])
        self.was_read = []

    def read(self, split, columns):
        for number in range(3):
            self.was_read.append(f"{split.uri}{number}")
            yield Document(f"{split.uri}{number}", "text", origin=f"{split.uri}#{number}")


def selected(rows, selection, ledger=None, source=None):
    source = source or Counted()
    task = Task.from_spec({"name": "summarize"})
    options = {"retry_failed": False, "selection": selection}
    return source, Intake(source, task, list(source.splits), ledger or Known(), rows, **options)


class Choosy(Counted):
    """Leaves out all rows but the last of each piece, and an id that is another row's."""

    leaves_out = True

    def read(self, split, columns):
        for document in super().read(split, columns):
            left_out = None if document.doc_id[-1] == "2" else "too early"
            yield replace(document, doc_id="a2" if left_out else document.doc_id, left_out=left_out)


def test_rows_that_are_left_out_are_counted_and_take_no_id(rows):
    _, intake = selected(rows, None, source=Choosy())
    assert [summary(item) for item in intake] == ["left out", "left out", "a2", "left out", "left out", "b2"]
    assert intake.left_out == (("too early", 4),)
    assert intake.total == 6
    document = next(item for item in selected(rows, None, source=Choosy())[1] if isinstance(item, Document))
    assert (document.file, document.row) == ("a", 2)


def test_a_selection_is_of_documents_that_are_not_left_out(rows):
    source, intake = selected(rows, Selection(1), source=Choosy())
    assert intake.total is None
    assert [summary(item) for item in intake] == ["left out", "left out", "a2"]
    assert source.was_read == ["a0", "a1", "a2"]
    drawn = selected(rows, Selection(2, 0), source=Choosy())[1]
    assert drawn.total == 2
    assert [summary(item) for item in drawn] == ["a2", "b2"]


def test_of_the_first_documents_no_more_is_read_and_done_ones_count(rows):
    source, intake = selected(rows, Selection(4), Known(a1="ok"))
    assert intake.total == 4
    assert [summary(item) for item in intake] == ["a0", "ok", "a2", "b0"]
    assert source.was_read == ["a0", "a1", "a2", "b0"]
    assert intake.selection == "the first 4 documents of the source"
    assert selected(rows, Selection(9))[1].total == 6
    assert selected(rows, None)[1].selection == ""


def test_of_drawn_documents_only_their_pieces_are_read(rows):
    source, intake = selected(rows, Selection(2, seed=0))
    found = [summary(item) for item in intake]
    assert intake.total == len(found) == 2
    pieces = {doc_id[0] for doc_id in found}
    assert {place[0] for place in source.was_read} == pieces
    assert [summary(item) for item in selected(rows, Selection(2, seed=0))[1]] == found
    larger = [summary(item) for item in selected(rows, Selection(5, seed=0))[1]]
    assert set(found) < set(larger)
    assert larger == sorted(larger)


@pytest.mark.parametrize("selection", [Selection(3), Selection(6), Selection(2, 0), Selection(6, 0)])
def test_nothing_is_gone_because_it_was_not_looked_at(rows, selection):
    class Placed(Known):
        def failed_places(self, file):
            return frozenset({f"{file}#2"})

    items = list(selected(rows, selection, Placed())[1])
    assert len(items) == selection.documents
    assert all(isinstance(item, Document) for item in items)
