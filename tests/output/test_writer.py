import errno
import json
import os
from dataclasses import dataclass, replace
from datetime import timedelta

import pyarrow as pa
import pytest

from corm_batch.data.document import Document
from corm_batch.data.filesystem import read_whole, write_whole
from corm_batch.data.kinds import Moment
from corm_batch.data.newest_rows import read_results
from corm_batch.data.parts import list_parts
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import LeaseError, OutputError
from corm_batch.output import clock
from corm_batch.output import lease as lease_module
from corm_batch.output.lease import Lease
from corm_batch.output.run_id import start_run
from corm_batch.output.writer import PartWriter
from corm_batch.spec import OutputSection
from corm_batch.tasks.base import TaskResult


@dataclass
class Freehold:
    """A lease that is ours until it is `lost`."""

    lost: bool = False

    def check(self):
        if self.lost:
            raise LeaseError("lost")


@pytest.fixture
def make(rows, tmp_path):
    def writer(uri=str(tmp_path), lease=None, **fields):
        return PartWriter(OutputSection(uri=uri, **fields), rows, lease or Freehold())

    return writer


@pytest.mark.parametrize("part_format", ["parquet", "arrow"])
def test_rows_are_there_after_the_commit(make, rows, place, part_format):
    writer = make(place, format=part_format)
    for name in "abc":
        writer.add(rows.failed(Document(name, None), "DocumentError", "no"))
    assert list_parts(f"{place}/results") == []
    assert writer.commit() == 3
    assert writer.commit() == 0
    writer.add(rows.failed(Document("d", None), "DocumentError", "no"))
    writer.commit()
    table = read_results(place, memory=True)
    assert sorted(table["doc_id"].to_pylist()) == ["a", "b", "c", "d"]
    assert table["committed_at"].null_count == 0
    assert len(list_parts(f"{place}/results")) == len(list_parts(f"{place}/memory")) == 2


def test_due_by_number_and_by_time(make, rows):
    row = rows.failed(Document("a", None), "DocumentError", "no")
    writer = make(part_documents=2)
    assert not writer.due
    writer.add(row)
    assert not writer.due
    writer.add(row)
    assert writer.due
    impatient = make(part_seconds=1e-9)
    assert not impatient.due
    impatient.add(row)
    assert impatient.due


def test_full_disk_loses_nothing_that_was_committed(make, rows, tmp_path, monkeypatch):
    writer = make()
    writer.add(rows.failed(Document("a", None), "DocumentError", "no"))
    writer.commit()
    writer.add(rows.failed(Document("b", None), "DocumentError", "no"))
    replace = os.replace

    def full(source, target):
        if "results" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="no space left"):
        writer.commit()
    assert read_results(str(tmp_path))["doc_id"].to_pylist() == ["a"]
    assert not [name for name in os.listdir(tmp_path / "results") if not name.startswith("part-")]
    monkeypatch.setattr(os, "replace", replace)
    writer.commit()
    assert sorted(read_results(str(tmp_path), memory=True)["doc_id"].to_pylist()) == ["a", "b"]


def test_nothing_is_written_once_the_lease_is_lost(make, rows, tmp_path):
    lease = Freehold()
    writer = make(lease=lease)
    writer.add(rows.failed(Document("a", None), "DocumentError", "no"))
    lease.lost = True
    with pytest.raises(LeaseError):
        writer.commit()
    assert list_parts(f"{tmp_path}/results") == list_parts(f"{tmp_path}/memory") == []


def test_writes_under_a_real_lease(make, rows, tmp_path):
    with Lease(str(tmp_path)) as lease:
        writer = make(lease=lease)
        writer.add(rows.failed(Document("a", None), "DocumentError", "no"))
        assert writer.commit() == 1


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_rows_of_a_run_that_was_stopped_in_its_commit_never_win(rows, place, monkeypatch, hours):
    """It is stopped between the check of its lease and its write, until the run that took over has ended."""
    monkeypatch.setattr(lease_module, "_LOOK_S", 0.02)
    monkeypatch.setattr(lease_module, "STALE_S", 0.1)
    here = clock.now()

    def writer(lease, answer):
        run = replace(rows, run_id=start_run(place))
        made = PartWriter(OutputSection(uri=place), run, lease)
        made.add(run.answered(Document("a", "text"), TaskResult(answer), MemoryStats()))
        return made

    def stopped():
        content = json.loads(read_whole(f"{place}/_job/lease.json"))
        write_whole(f"{place}/_job/lease.json", json.dumps({**content, "machine": "another machine"}).encode())
        monkeypatch.setattr(clock, "now", lambda: here + timedelta(hours=hours))
        with Lease(place, lambda: True) as taken:
            newer = writer(taken, "new")
            start_run(place)  # and one more, which ends before it commits anything
            assert newer.commit() == 1

    first = Lease(place).__enter__()
    older = writer(first, "old")
    check = first.check
    monkeypatch.setattr(first, "check", lambda: (check(), stopped()))
    older.commit()
    monkeypatch.undo()
    assert len(list_parts(f"{place}/results")) == 2
    assert read_results(place)["output"].to_pylist() == ["new"]
    with pytest.raises(LeaseError, match="was lost to"):
        first.__exit__(None, None, None)


def test_what_no_part_holds_is_carried_as_text_and_read_back(rows, tmp_path):
    carried = (pa.field("meta", pa.string()), pa.field("url", pa.string_view()), pa.field("far", pa.date32()))
    far = Moment(10_000_000, pa.date32())
    builder = replace(rows, carried=carried)
    writer = PartWriter(OutputSection(uri=str(tmp_path)), builder, Freehold())
    for name, values in {"a": ({}, "u", far), "b": ({}, "v", "soon")}.items():
        document = Document(name, None, carried=dict(zip(("meta", "url", "far"), values, strict=True)))
        writer.add(builder.failed(document, "DocumentError", "no"))
        writer.commit()
    found = read_results(str(tmp_path)).sort_by("doc_id")
    assert found.select(["meta", "url", "far"]).to_pylist() == [
        {"meta": "{}", "url": "u", "far": "29349-01-26"},
        {"meta": "{}", "url": "v", "far": "soon"},
    ]
