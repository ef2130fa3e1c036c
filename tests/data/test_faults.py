"""Every operation of data/filesystem.py against an S3 server whose connection misbehaves."""

import itertools
import random
import time
import uuid

import pytest
from moto.backends import get_backend

from corm_batch.data import filesystem as module
from corm_batch.data import patience
from corm_batch.data.filesystem import (
    create_exclusive,
    delete,
    fetch_folder,
    filesystem,
    list_files,
    open_file,
    read_whole,
    write_whole,
)
from corm_batch.errors import LeaseError, OutputError, SourceError
from corm_batch.output.lease import Lease
from tests.data.conftest import moto_client as s3_client  # noqa: F401
from tests.data.fault_proxy import FAULTS

pytestmark = pytest.mark.s3


@pytest.mark.parametrize("turn", [0, 2])
def test_a_fault_in_any_request_changes_nothing(turn, bucket, proxy, tmp_path):
    content = random.randbytes(5000)
    faults = itertools.islice(itertools.cycle(FAULTS), turn, None)

    def disturbed(call, *arguments):
        """The call's results with a fault in its first request, and with one in its second."""
        for plan in ([next(faults)], [None, next(faults)]):
            proxy.next_are(*plan)
            yield call(*arguments)

    write_whole(f"{bucket}/in/a", b"a")
    for _ in disturbed(write_whole, f"{bucket}/in/b", content):
        assert read_whole(f"{bucket}/in/b") == content
    assert list(disturbed(read_whole, f"{bucket}/in/b")) == [content] * 2
    both = [f"{bucket}/in/a", f"{bucket}/in/b"]
    for place, expected in {"in": both, "in/b": both[1:], "*/[b-c]": both[1:]}.items():
        assert list(disturbed(list_files, f"{bucket}/{place}")) == [expected] * 2, place
    with open_file(f"{bucket}/in/b") as file:
        assert list(disturbed(file.read, 1000)) == [content[:1000], content[1000:2000]]
    copies = disturbed(lambda: fetch_folder(f"{bucket}/in", str(tmp_path / uuid.uuid4().hex)))
    assert [read_whole(f"{copy}/b") for copy in copies] == [content] * 2
    assert [list_files(f"{bucket}/in") for _ in disturbed(delete, f"{bucket}/in/b")] == [both[:1]] * 2
    assert proxy.faults.total() >= 12
    assert set(proxy.faults) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_a_file_costs_one_read(fault, bucket, proxy):
    content = random.randbytes(5000)
    write_whole(f"{bucket}/a", content)
    with open_file(f"{bucket}/a") as file:
        file.seek(1000)
        proxy.next_are(fault)
        before = proxy.requests
        assert file.read(1000) == content[1000:2000]
        assert (proxy.requests - before, proxy.faults[fault]) == (2, 1)


@pytest.mark.parametrize("fault", ["busy", "lose"])
def test_a_lease_is_taken_once_whatever_happens_to_the_answer(fault, bucket, proxy):
    proxy.next_are(fault)
    with Lease(bucket) as lease:
        lease.check()
        with pytest.raises(LeaseError, match="held by"), Lease(bucket):
            pass
        proxy.next_are(None, fault)
    assert create_exclusive(f"{bucket}/_job/lease.json", b"free")


def test_a_store_that_is_away_for_seconds_is_waited_for(bucket, proxy):
    write_whole(f"{bucket}/a", b"1")
    proxy.away_for(1.0)
    started = time.monotonic()
    write_whole(f"{bucket}/b", b"2")
    assert 1.0 <= time.monotonic() - started < 20
    assert proxy.faults["away"] < 30
    assert read_whole(f"{bucket}/b") == b"2"


def test_what_does_not_come_back_is_an_error(bucket, proxy, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    proxy.away_for(60)
    for call, error in ((read_whole, SourceError), (list_files, SourceError), (delete, OutputError)):
        with pytest.raises(error, match=bucket):
            call(f"{bucket}/a")


def test_thousands_of_parts_are_listed(bucket):
    names = [f"out/results/part-{number:06d}.parquet" for number in range(1234)]
    for name in random.sample(names, len(names)):  # past the server: a page has a thousand
        get_backend("s3")["123456789012"]["aws"].put_object(bucket.removeprefix("s3://"), name, b"x")
    expected = [f"{bucket}/{name}" for name in names]
    assert list_files(f"{bucket}/out/results/", (".parquet", ".arrow")) == expected
    assert list_files(f"{bucket}/out/*/part-*.parquet") == expected


@pytest.mark.usefixtures("s3_client")
def test_timeouts_and_region_are_what_is_said_here(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    fs, _ = filesystem("s3://bucket")
    config = fs.connect().meta.config
    assert (config.connect_timeout, config.read_timeout) == (module._CONNECT_S, module._READ_S)
    assert config.region_name == "eu-central-1"
    assert config.retries["total_max_attempts"] == 1
