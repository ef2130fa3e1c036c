"""ScheduleRegistry: one file a schedule, locally and on S3."""

from datetime import timedelta

import pytest

from corm_batch.errors import SpecError
from corm_batch.schedule.registry import ScheduleRegistry, default_registry
from corm_batch.schedule.schedule import RunState
from tests.data.conftest import bucket, s3_client  # noqa: F401
from tests.schedule.conftest import START, make_schedule


def check_life_of_a_schedule(registry):
    assert registry.names() == []
    schedule = make_schedule(overrides=("policy.tau=2",))
    registry.add(schedule)
    registry.add(make_schedule(name="weekly"))
    assert registry.names() == ["nightly", "weekly"]
    assert registry.schedule("nightly") == schedule
    assert registry.state(schedule) == RunState(considered_until=START)
    ran = RunState(considered_until=START).started(START + timedelta(hours=2), START + timedelta(hours=2))
    registry.write_state("nightly", ran)
    assert registry.state(schedule) == ran
    assert registry.names() == ["nightly", "weekly"]

    with pytest.raises(SpecError, match="name: nightly is there already; give --replace"):
        registry.add(schedule)
    later = schedule.model_copy(update={"added_at": START + timedelta(days=9)})
    registry.add(later, replace=True)
    assert registry.state(later) == ran.considered(START + timedelta(days=9))

    registry.remove("nightly")
    assert registry.names() == ["weekly"]
    with pytest.raises(SpecError, match="no schedule is called 'nightly'; there are: weekly"):
        registry.remove("nightly")
    with pytest.raises(SpecError, match="no schedule is called 'nightly'; there are: weekly"):
        registry.schedule("nightly")
    registry.add(schedule)
    assert registry.state(schedule).outcome is None


def test_local(registry):
    check_life_of_a_schedule(registry)


@pytest.mark.s3
def test_s3(bucket):  # noqa: F811
    check_life_of_a_schedule(ScheduleRegistry(f"{bucket}/schedules/"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [", "no valid YAML"),
        ("- nightly", "expected the fields of a schedule: name, spec, cron"),
        ("name: nightly", "spec: Field required"),
        (b"\xff", "no valid YAML"),
    ],
)
def test_files_that_are_no_schedules(registry, tmp_path, content, message):
    registry.add(make_schedule())
    file = tmp_path / "schedules/nightly.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SpecError) as error:
        registry.schedule("nightly")
    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_a_file_under_another_name(registry, tmp_path):
    registry.add(make_schedule())
    (tmp_path / "schedules/nightly.yaml").rename(tmp_path / "schedules/other.yaml")
    with pytest.raises(SpecError, match="expected 'other' as the file is called, got 'nightly'"):
        registry.schedule("other")


def test_a_broken_state(registry, tmp_path):
    registry.add(make_schedule())
    registry.write_state("nightly", RunState(considered_until=START))
    (tmp_path / "schedules/_state/nightly.json").write_text("{}")
    with pytest.raises(SpecError, match=r"_state/nightly\.json: not the state of a schedule; remove the file"):
        registry.state(make_schedule())


def test_default_is_in_the_data_folder(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_registry() == "/data/corm-batch/schedules"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_registry() == "/home/someone/.local/share/corm-batch/schedules"


def test_registry_elsewhere_is_refused():
    with pytest.raises(SpecError, match="registry: expected a local path or an s3:// URI"):
        ScheduleRegistry("gs://bucket/schedules")
