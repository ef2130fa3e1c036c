"""FileSource: what is the same for every format, on JSON Lines."""

import errno
import os
from decimal import Decimal
from uuid import UUID

import pytest
from botocore.exceptions import NoCredentialsError

from corm_batch.data import filesystem
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.jsonl import JsonlSource
from corm_batch.errors import ColumnsError, FileError, SourceError, SpecError


class Scripted(JsonlSource):
    """Files of one document each, but for those named after what is wrong with them."""

    def look(self, uri, columns):
        name = os.path.basename(uri).partition(".")[0]
        if name == "columns":
            raise ColumnsError(uri, "no line has a column 'text'")
        if name == "garbage":
            raise ValueError("no sense in it\nat all")
        if name == "empty":
            return []
        return [Split(uri, 0, 1), Split(uri, 1, 1)]

    def documents(self, split, columns, carried=()):
        origin = f"{split.uri}#{split.index}"
        yield self.document({"doc_id": origin, "text": "x"}, columns, origin)
        if "damaged" in split.uri:
            raise EOFError("cut here")


@pytest.fixture
def source(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / f"{name}.jsonl").write_bytes(b"{}")
        return Scripted(uri=str(tmp_path))

    return make


def test_splits_keep_the_order_of_names(source, tmp_path):
    names = [f"{number:02d}" for number in range(30)]
    expected = [(f"{tmp_path}/{name}.jsonl", index) for name in names for index in range(2)]
    assert [(split.uri, split.index) for split in source(*names).splits()] == expected


def test_bad_files_are_splits_that_say_so(source, tmp_path):
    splits = source("a", "columns", "empty", "garbage").splits()
    found = [(os.path.basename(split.uri), split.num_rows, split.error) for split in splits]
    assert found == [
        ("a.jsonl", 1, None),
        ("a.jsonl", 1, None),
        ("columns.jsonl", 0, "no line has a column 'text'"),
        ("empty.jsonl", 0, None),
        ("garbage.jsonl", 0, "cannot be read: no sense in it"),
    ]
    with pytest.raises(FileError, match=r"garbage\.jsonl: cannot be read: no sense in it$") as caught:
        list(source().read(splits[-1], ()))
    assert (caught.value.uri, caught.value.reason) == (splits[-1].uri, splits[-1].error)


def test_what_stands_before_damage_is_yielded_and_the_place_is_said(source):
    damaged = source("damaged")
    documents = damaged.read(damaged.splits()[1], ())
    assert next(documents).text == "x"
    with pytest.raises(FileError, match=r"damaged\.jsonl: cannot be read beyond row 1: cut here"):
        next(documents)


def test_no_file_at_all_with_the_columns_is_the_specs_fault(source):
    columns = [f"columns.{number:02d}" for number in range(25)]
    with pytest.raises(SpecError, match=r"no file at .* has the columns asked for:\n") as caught:
        source("garbage", "empty", *columns).splits()
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[1].endswith("columns.00.jsonl: no line has a column 'text'")
    assert lines[-1] == "... and 6 more files"


def test_files_that_are_all_broken_are_no_fault_of_the_job(source):
    assert [split.num_rows for split in source("garbage", "empty").splits()] == [0, 0]


def test_nothing_but_empty_files_says_where_it_looked(source, tmp_path):
    with pytest.raises(SourceError, match=f"no documents in the 1 files found at {tmp_path}"):
        source("empty").splits()


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "denied"), OSError(errno.EIO, "bad sector")])
def test_a_file_that_alone_cannot_be_read_is_its_own_fault(error, source, monkeypatch):
    monkeypatch.setattr("corm_batch.data.patience.PATIENCE_S", 0.0)
    readable = source("a", "b")

    def documents(self, split, columns, carried=()):
        raise error

    monkeypatch.setattr(Scripted, "documents", documents)
    with pytest.raises(FileError, match=error.strerror):
        list(readable.read(readable.splits()[0], ()))


def test_a_place_that_cannot_be_listed_either_ends_the_job(source, monkeypatch):
    readable = source("a", "b")
    splits = readable.splits()

    def away(folder):
        raise OSError(errno.EACCES, "the share is gone")

    monkeypatch.setattr(filesystem.os, "listdir", away)
    monkeypatch.setattr(Scripted, "documents", lambda *arguments: away(""))
    with pytest.raises(SourceError, match="the share is gone") as caught:
        list(readable.read(splits[0], ()))
    assert not isinstance(caught.value, FileError)
    monkeypatch.setattr(Scripted, "look", lambda *arguments: away(""))
    with pytest.raises(SourceError, match="the share is gone"):
        readable.splits()


@pytest.mark.s3
def test_a_store_without_credentials_ends_the_job_and_a_deleted_object_does_not(bucket, monkeypatch):
    for name in ("a", "b"):
        filesystem.write_whole(f"{bucket}/{name}.jsonl", b'{"doc_id": "%s", "text": "x"}' % name.encode())
    source = JsonlSource(uri=bucket)
    first, second = source.splits()
    filesystem.delete(first.uri)
    with pytest.raises(FileError, match=r"a\.jsonl: cannot be read"):
        list(source.read(first, ()))
    assert [document.doc_id for document in source.read(second, ())] == ["b"]

    def refused(*arguments, **options):
        raise NoCredentialsError

    monkeypatch.setattr(filesystem.s3fs.S3FileSystem, "open", refused)
    with pytest.raises(FileError, match="Unable to locate credentials"):
        list(source.read(second, ()))
    monkeypatch.setattr(filesystem.s3fs.S3FileSystem, "find", refused)
    with pytest.raises(SourceError, match="Unable to locate credentials") as caught:
        list(source.read(second, ()))
    assert not isinstance(caught.value, FileError)


def test_each_column_is_wanted_once(source):
    assert source().wanted(["text", "question", "question"], ["doc_id"]) == ["doc_id", "text", "question"]
    assert source().wanted([], ["id"]) == ["text"]


@pytest.mark.parametrize(
    ("value", "doc_id"),
    [
        (7, "7"),
        (7.0, "7"),
        (-0.0, "0"),
        (7.5, None),
        (2.0**53, None),  # so is one more than that
        (float("nan"), None),
        (float("inf"), None),
        (Decimal("12.00"), "12"),
        (Decimal("1E+3"), "1000"),
        (Decimal("12.50"), "12.50"),
        (Decimal("NaN"), None),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (True, None),
        ("", None),
        ("\ud800", None),
        (["a"], None),
    ],
    ids=str,
)
def test_what_may_be_an_id(value, doc_id, source):
    document = source().document({"doc_id": value, "text": "x"}, (), "file#3")
    assert (document.doc_id, document.problem is None) == (doc_id or "file#3", doc_id is not None)


@pytest.mark.parametrize("uri", ["{}", "{}/", "{}/*.jsonl", "{}/deep/../*"])
def test_ids_are_made_of_file_and_row_where_none_is_named(uri, tmp_path):
    made = Scripted(uri=uri.format(tmp_path)).document({"text": "x"}, (), f"{tmp_path}/deep/a.jsonl#3")
    assert (made.doc_id, made.problem) == ("deep/a.jsonl#3", None)


def test_a_file_that_is_named_itself_makes_ids_too_and_a_column_that_is_named_has_to_be_there(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text": "y", "doc_id": null}\n{"text": "z", "doc_id": 5}\n')
    source = JsonlSource(uri=str(path))
    found = [(one.doc_id, one.problem is None) for split in source.splits() for one in source.read(split, ())]
    assert found == [("a.jsonl#0", True), (f"{path}#1", False), ("5", True)]
    with pytest.raises(SpecError, match="no line has a column 'id'; there are: doc_id, text"):
        JsonlSource(uri=str(path), id_column="id").splits()


def test_several_problems_of_a_row_are_all_named(source):
    row = {"doc_id": None, "text": " ", "question": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")}
    document = source().document(row, ["question"], "file#3")
    assert document.doc_id == document.origin == "file#3"
    assert document.problem == (
        "file#3: column 'doc_id' holds no usable id but None; column 'text' is empty; "
        "column 'question' holds invalid UTF-8"
    )
    assert document.columns == {"question": None}
    assert document.content_sha256
