import errno
import os
from dataclasses import dataclass

import pytest

from corm_batch.data.document import Document
from corm_batch.errors import LeaseError, OutputError
from corm_batch.output.lease import Lease
from corm_batch.output.ledger import read_results
from corm_batch.output.parts import list_parts
from corm_batch.output.writer import PartWriter
from corm_batch.spec import OutputSection


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
