"""Run ids: they sort after everything that is there or may still come, whatever the clocks say."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from corm_batch.data.filesystem import list_files, read_whole, write_whole
from corm_batch.data.parts import folder, part_name
from corm_batch.errors import OutputError
from corm_batch.output import clock
from corm_batch.output.run_id import start_run

NOW = datetime(2026, 11, 26, 12, 0, 0, 500_000, tzinfo=UTC)


@pytest.fixture
def at(monkeypatch):
    """Sets the clock of this machine to so many seconds after NOW."""

    def to(seconds):
        monkeypatch.setattr(clock, "now", lambda: NOW + timedelta(seconds=seconds))

    to(0)
    return to


def commit(place, run_id, number=0):
    write_whole(f"{folder(place, 'results')}/{part_name(run_id, number, 'parquet')}", b"")


def test_the_time_is_readable_and_the_start_is_written_down(place, at):
    run_id = start_run(place)
    assert run_id.startswith("20261126T120000Z-")
    (uri,) = list_files(f"{place}/_job/runs/")
    assert uri.endswith(f"{run_id}.started")
    assert json.loads(read_whole(uri)) == {"run_id": run_id, "started_at": NOW.isoformat()}


@pytest.mark.parametrize("behind_s", [0.1, 1, 3600, 10 * 365 * 86400])
def test_a_clock_that_is_behind_gives_a_later_name(place, at, behind_s):
    first = start_run(place)
    commit(place, first, 7)
    at(-behind_s)
    second, third = start_run(place), start_run(place)
    assert first < second < third
    assert (second[:16], third[:16]) == ("20261126T120001Z", "20261126T120002Z")
    assert [part_name(run, 0, "arrow") > part_name(first, 999_999, "parquet") for run in (second, third)] == [True] * 2


def test_many_runs_in_one_second_are_in_order(tmp_path, at):
    runs = [start_run(str(tmp_path)) for _ in range(5)]
    assert sorted(runs) == runs


def test_parts_count_though_no_start_was_written_down(tmp_path, at):
    commit(str(tmp_path), "20261126T130000Z-ffffff", 3)
    commit(str(tmp_path), "20261120T130000Z-000000")
    assert start_run(str(tmp_path)).startswith("20261126T130001Z-")


@pytest.mark.parametrize("name", ["part-z.parquet", "part-all-of-2026.arrow", "part-99999999T999999Z-a-000000.parquet"])
def test_a_part_that_no_run_can_be_named_after_is_named(tmp_path, at, name):
    write_whole(f"{tmp_path}/results/{name}", b"")
    with pytest.raises(OutputError, match=rf"{name}: no run can be named after it, .* rename it"):
        start_run(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["part-0.parquet", "part-2025.parquet", "other.parquet", "part-20260101-compacted.arrow"]
)
def test_other_names_that_sort_before_are_no_hindrance(tmp_path, at, name):
    write_whole(f"{tmp_path}/results/{name}", b"")
    assert start_run(str(tmp_path)).startswith("20261126T120000Z-")
