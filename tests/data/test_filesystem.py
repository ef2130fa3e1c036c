import errno
import os
import threading

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ProfileNotFound
from fsspec.implementations.local import LocalFileSystem

from corm_batch.data import filesystem
from corm_batch.data.filesystem import (
    create_exclusive,
    delete,
    fetch_folder,
    list_files,
    open_file,
    read_whole,
    reading,
    write_whole,
)
from corm_batch.errors import OutputError, SourceError, SpecError


def test_what_is_written_is_read_back_and_replaced(place):
    uri = f"{place}/deep/er/a.bin"
    write_whole(uri, b"one")
    assert read_whole(uri) == b"one"
    write_whole(uri, b"two" * 1000)
    assert read_whole(uri) == b"two" * 1000
    assert list_files(place) == [uri]


@pytest.mark.s3
def test_a_page_on_s3_is_one_for_browsers_too(bucket, s3_client):
    for name, kind in (("page.html", "text/html"), ("run.json", "application/json"), ("part.unknown-kind", None)):
        write_whole(f"{bucket}/{name}", b"content")
        found = s3_client.head_object(Bucket=bucket.removeprefix("s3://"), Key=name)["ContentType"]
        assert found == kind or (kind is None and found.startswith(("text/plain", "application/octet-stream")))


def test_open_file_reads_at_any_position(place):
    write_whole(f"{place}/a", bytes(range(200)))
    with open_file(f"{place}/a") as file:
        file.seek(-10, 2)
        assert file.read(4) == bytes([190, 191, 192, 193])
        file.seek(0)
        assert file.read(2) == b"\0\1"


def test_listing_leaves_out_hidden_names_and_other_suffixes(place):
    for name in ("b.parquet", "a.parquet", "sub/c.PARQUET", "_temporary/d.parquet", ".hidden.parquet", "e.txt"):
        write_whole(f"{place}/in/{name}", b"x")
    names = [uri.removeprefix(f"{place}/in/") for uri in list_files(f"{place}/in", (".parquet",))]
    assert names == ["a.parquet", "b.parquet", "sub/c.PARQUET"]
    assert list_files(f"{place}/in/", (".txt",)) == [f"{place}/in/e.txt"]


def test_listing_takes_one_file_or_a_glob(place):
    for name in ("1.jsonl", "2.jsonl", "_3.jsonl", "4.txt"):
        write_whole(f"{place}/in/{name}", b"x")
    assert list_files(f"{place}/in/4.txt", (".jsonl",)) == [f"{place}/in/4.txt"]
    assert list_files(f"{place}/in/*.jsonl") == [f"{place}/in/1.jsonl", f"{place}/in/2.jsonl"]
    assert list_files(f"{place}/*/[2-9].*", (".jsonl",)) == [f"{place}/in/2.jsonl"]
    assert list_files(f"{place}/i?/1.jsonl") == [f"{place}/in/1.jsonl"]


def test_hidden_is_what_lies_hidden_below_the_place_asked_for(place):
    write_whole(f"{place}/.cache/_in/1.jsonl", b"x")
    for uri in (".cache/_in", ".cache/_in/1.jsonl", ".cache/_in/*", ".cache/_in/[1].jsonl"):
        assert list_files(f"{place}/{uri}") == [f"{place}/.cache/_in/1.jsonl"]
    assert list_files(f"{place}/.cache") == []


def test_a_name_with_wildcards_in_it_is_found_as_it_is(tmp_path):
    write_whole(f"{tmp_path}/a[1].jsonl", b"x")
    write_whole(f"{tmp_path}/b[1]/c.jsonl", b"x")
    assert list_files(f"{tmp_path}/a[1].jsonl") == [f"{tmp_path}/a[1].jsonl"]
    assert list_files(f"{tmp_path}/b[1]") == [f"{tmp_path}/b[1]/c.jsonl"]


@pytest.mark.parametrize("uri", ["in", "in/*.parquet", "*/*.parquet"])
def test_a_folder_that_is_called_like_a_file_is_read_as_spark_writes_it(uri, place):
    for name in ("x.parquet/part-0.parquet", "x.parquet/_SUCCESS", "x.parquet/sub/part-1.parquet", "y.parquet"):
        write_whole(f"{place}/in/{name}", b"x")
    names = [found.removeprefix(f"{place}/in/") for found in list_files(f"{place}/{uri}", (".parquet",))]
    assert names == ["x.parquet/part-0.parquet", "x.parquet/sub/part-1.parquet", "y.parquet"]


def test_listing_nothing_is_empty(place):
    assert list_files(f"{place}/nothing/here") == []


@pytest.mark.s3
def test_directory_markers_are_no_files(bucket, s3_client):
    s3_client.put_object(Bucket=bucket.removeprefix("s3://"), Key="in/", Body=b"")
    write_whole(f"{bucket}/in/a.parquet", b"x")
    assert list_files(f"{bucket}/in") == [f"{bucket}/in/a.parquet"]


@pytest.mark.s3
def test_listings_are_never_stale(bucket, s3_client):
    assert list_files(f"{bucket}/in") == []
    s3_client.put_object(Bucket=bucket.removeprefix("s3://"), Key="in/a", Body=b"x")  # as another driver would
    assert list_files(f"{bucket}/in") == [f"{bucket}/in/a"]


@pytest.mark.s3
def test_missing_bucket_names_the_uri(s3_client):
    with pytest.raises(SourceError, match="s3://no-such-bucket-here/x"):
        read_whole("s3://no-such-bucket-here/x")


def test_only_one_creator_wins(place):
    won, barrier = [], threading.Barrier(4)

    def create(number):
        barrier.wait()
        if create_exclusive(f"{place}/lease", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_whole(f"{place}/lease") == b"%d" % won[0]
    assert not create_exclusive(f"{place}/lease", b"late")


def test_deleted_is_free_again_and_deleting_nothing_is_fine(place):
    assert create_exclusive(f"{place}/lease", b"1")
    delete(f"{place}/lease")
    delete(f"{place}/lease")
    assert create_exclusive(f"{place}/lease", b"2")


def test_missing_file_is_a_source_error(place):
    with pytest.raises(SourceError, match=r"nowhere\.parquet") as caught:
        read_whole(f"{place}/nowhere.parquet")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        TimeoutError("slow"),
        OSError(errno.EBUSY, "SlowDown"),
        EndpointConnectionError(endpoint_url="http://x"),
        PermissionError("no"),
        NoCredentialsError(),
        ProfileNotFound(profile="nightly"),
        OSError("Corrupt snappy compressed data."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_fault_of_a_store_is_a_source_error_that_names_the_object(error):
    with pytest.raises(SourceError, match="s3://b/x: cannot be read") as caught, reading("s3://b/x"):
        raise error
    assert caught.value.__cause__ is error


def test_our_own_errors_pass_through_reading():
    with pytest.raises(SpecError), reading("x"):
        raise SpecError("as it was")


@pytest.mark.parametrize("write", [write_whole, create_exclusive])
def test_full_disk_says_what_is_safe_and_leaves_nothing(write, tmp_path, monkeypatch):
    write_whole(f"{tmp_path}/old", b"committed")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"new: no space left.*committed before is intact"):
        write(f"{tmp_path}/new", b"x")
    assert os.listdir(tmp_path) == ["old"]


def test_interrupted_write_keeps_the_old_object(tmp_path, monkeypatch):
    write_whole(f"{tmp_path}/a", b"old")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(errno.EIO, "broken disk")))
    with pytest.raises(OutputError, match="broken disk"):
        write_whole(f"{tmp_path}/a", b"new")
    assert read_whole(f"{tmp_path}/a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_unwritable_place_names_the_uri(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file/part"):
        write_whole(f"{tmp_path}/file/part", b"x")


def test_local_files_are_readable_by_others(tmp_path):
    write_whole(f"{tmp_path}/a", b"x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_local_folder_is_fetched_as_it_is(tmp_path):
    assert fetch_folder("/models/m", str(tmp_path)) == "/models/m"


@pytest.mark.s3
def test_s3_folder_is_fetched_once_and_again_when_it_changes(bucket, tmp_path, monkeypatch):
    write_whole(f"{bucket}/m/config.json", b"{}")
    write_whole(f"{bucket}/m/sub/weights", b"12")
    write_whole(f"{bucket}/mother/other", b"not ours")
    first = fetch_folder(f"{bucket}/m/", str(tmp_path))
    found = {os.path.relpath(os.path.join(root, name), first) for root, _, names in os.walk(first) for name in names}
    assert found == {"config.json", "sub/weights"}
    assert LocalFileSystem().cat_file(f"{first}/sub/weights") == b"12"

    monkeypatch.setattr(filesystem, "_download", lambda *arguments: pytest.fail("fetched twice"))
    assert fetch_folder(f"{bucket}/m", str(tmp_path)) == first


@pytest.mark.s3
def test_changed_s3_folder_is_another_copy(bucket, tmp_path):
    write_whole(f"{bucket}/m/weights", b"12")
    first = fetch_folder(f"{bucket}/m", str(tmp_path))
    write_whole(f"{bucket}/m/weights", b"21")  # as long as before
    second = fetch_folder(f"{bucket}/m", str(tmp_path))
    assert first != second
    assert read_whole(f"{second}/weights") == b"21"
    assert len(os.listdir(tmp_path)) == 2  # no temporary folder is left


@pytest.mark.s3
def test_empty_s3_folder_is_refused(bucket, tmp_path):
    with pytest.raises(SourceError, match="no files there"):
        fetch_folder(f"{bucket}/nothing", str(tmp_path))
