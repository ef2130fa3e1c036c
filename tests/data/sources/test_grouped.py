"""Rows by the value of a column: order, ids, columns, and rows that are in no group."""

import json

import pytest

from corm_batch.data.document import Document
from corm_batch.data.sources.base import Source, Split
from corm_batch.data.sources.filtered import NOT_HELD
from corm_batch.data.sources.refined import refined
from corm_batch.errors import FileError, SpecError


def lines(tmp_path, rows, name="docs.jsonl", **fields):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return refined(Source.from_spec({"name": "jsonl", "uri": f"{tmp_path}/*.jsonl", "group_by": "key", **fields}))


def taken(source, columns=(), carried=()):
    return [document for split in source.splits(columns) for document in source.read_carrying(split, columns, carried)]


def row(doc_id, key, text=None, **more):
    return {"doc_id": doc_id, "key": key, "text": text or f"text of {doc_id}", **more}


def test_groups_lie_as_their_first_rows_and_members_as_in_the_source(tmp_path):
    rows = [row("a", "y"), row("b", "x"), row("c", "y"), row("d", "z"), row("e", "x")]
    found = taken(lines(tmp_path, rows, text_separator=" | "))
    assert [(one.doc_id, one.text) for one in found] == [
        ("y", "text of a | text of c"), ("x", "text of b | text of e"), ("z", "text of d"),
    ]  # fmt: skip
    assert [(one.file, one.row) for one in found] == [(f"{tmp_path}/docs.jsonl", number) for number in (0, 1, 3)]


def test_columns_of_a_group(tmp_path):
    rows = [row("a", 1, year=1999), row("b", 1, year=None)]
    source = lines(tmp_path, rows)
    columns, carried = ["key", "year", "members"], ["member_ids", "year", "key"]
    (found,) = taken(source, columns, carried)
    assert found.doc_id == "1"
    assert found.columns == {"key": 1, "year": [1999, None], "members": 2}
    assert found.carried == {"member_ids": ["a", "b"], "year": [1999, None], "key": 1}


def test_only_the_group_whose_members_changed_says_something_else(tmp_path):
    rows = [row("a", "x"), row("b", "y"), row("c", "x")]
    before = {one.doc_id: one.content_sha256 for one in taken(lines(tmp_path, rows))}
    after = {one.doc_id: one.content_sha256 for one in taken(lines(tmp_path, [*rows, row("d", "y")]))}
    assert after["x"] == before["x"]
    assert after["y"] != before["y"]


def test_a_row_without_a_key_or_that_is_bad_itself_is_told_apart(tmp_path):
    rows = [row("a", "x"), row("b", None), row("c", ["x"]), row("d", " "), {"doc_id": "e", "text": None, "key": "x"}]
    source = lines(tmp_path, rows)
    *bad, group = taken(source)
    assert (group.doc_id, group.text) == ("x", "text of a")
    assert [one.doc_id for one in bad] == [one.origin for one in bad]
    assert [one.doc_id.rpartition("#")[2] for one in bad] == ["1", "2", "3", "4"]
    assert (
        "'b' is in no group: its column 'key' (source.group_by) holds no text or whole number but null"
        in bad[0].problem
    )
    assert "but list ['x']" in bad[1].problem
    assert "but str ' '" in bad[2].problem
    assert "'e' is in no group: " in bad[3].problem
    assert "is null" in bad[3].problem


def test_what_a_filter_leaves_out_is_in_no_group_and_still_counted(tmp_path):
    rows = [row("a", "x", year=1), row("b", "x", year=5), row("c", "y", year=2)]
    source = lines(tmp_path, rows, filter="year > 4")
    assert source.leaves_out
    assert [(one.doc_id, one.left_out) for one in taken(source)] == [("a", NOT_HELD), ("c", NOT_HELD), ("x", None)]


def test_a_broken_file_is_named_after_the_groups_of_the_others(tmp_path):
    class Pieces(Source):
        """Two files, the first of which is cut."""

        def splits(self, columns=()):
            return [Split("cut", 0), Split("gone", 0, 0, "not there"), Split("whole", 0)]

        def read(self, split, columns):
            yield Document(split.uri, split.uri, {"key": "x"}, origin=f"{split.uri}#0")
            if split.uri == "cut":
                raise FileError("cut", "ends early")

    source = refined(Pieces(group_by="key"))
    gone, groups = source.splits()
    assert gone.error == "not there"
    reading = source.read(groups, ())
    assert next(reading).text == "cut\n\nwhole"
    with pytest.raises(FileError, match=r"cut: ends early: what groups have of it is missing"):
        next(reading)


def test_a_key_that_no_file_has_is_refused(tmp_path):
    with pytest.raises(SpecError, match="'other'"):
        lines(tmp_path, [row("a", "x")], group_by="other").splits()


def test_a_key_that_is_no_utf8_is_not_the_key_that_it_reads_as(tmp_path):
    rows = [row("a", "\ud800"), row("b", "\udfff"), row("c", "?")]
    *bad, group = taken(lines(tmp_path, rows))
    assert (group.doc_id, group.text) == ("?", "text of c")
    assert [f"the row {name!r} is in no group: " in one.problem for name, one in zip("ab", bad, strict=True)] == [
        True
    ] * 2
    assert "column 'key' holds invalid UTF-8" in bad[0].problem
