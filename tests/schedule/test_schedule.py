"""Schedule and RunState: validation, the command line, outcomes."""

import sys
from datetime import timedelta

import pytest

from corm_batch.errors import SpecError
from corm_batch.schedule.kuberay import ray_job
from corm_batch.schedule.kubernetes import PodOptions, cron_job
from corm_batch.schedule.schedule import RunState
from tests.schedule.conftest import ROOT, START, make_schedule
from tests.schedule.manifests import validated

OPTIONS = PodOptions("registry/corm-batch:1")


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"name": "Nightly Job"}, ["test:", "name: ", "got 'Nightly Job'"]),
        ({"name": "n" * 37}, ["name: "]),
        ({"cron": "0 25 * * *"}, ["cron: bad hour", "hour (0-23)", "got '0 25 * * *'"]),
        ({"time_zone": "CEST"}, ["time_zone: expected a time zone of the IANA database", "got 'CEST'"]),
        ({"spec": "gs://bucket/job.yaml"}, ["spec: expected a local path or an s3:// URI"]),
        ({"spec": "s3://key:secret@bucket/job.yaml"}, ["spec: credentials in a URI"]),
        ({"added_at": START.replace(tzinfo=None)}, ["added_at: "]),
        ({"address": "head:8265"}, ["address: expected the URL of the cluster's dashboard", "got 'head:8265'"]),
        ({"address": "http://user:secret@head:8265"}, ["address: credentials in a URL"]),
        ({"hourly": True}, ["hourly: unknown key; known here: name, spec, cron"]),
    ],
)
def test_wrong_fields_are_refused(changes, messages):
    with pytest.raises(SpecError) as error:
        make_schedule(**changes)
    assert all(message in str(error.value) for message in messages)
    assert "secret" not in str(error.value)


def test_command_line():
    schedule = make_schedule(overrides=("policy.tau=2", "model.system=a b"), retry_failed=True)
    assert schedule.command() == [
        *[sys.executable, "-P", "-m", "corm_batch.cli", "run", str(ROOT / "jobs/nightly.yaml")],
        *["--set", "policy.tau=2", "--set", "model.system=a b", "--retry-failed"],
    ]


def test_a_job_for_a_cluster_is_submitted_and_followed():
    schedule = make_schedule(address="http://head:8265/", overrides=("policy.tau=2",), retry_failed=True)
    assert schedule.arguments() == [
        *["submit", "--address", "http://head:8265", "--follow", str(ROOT / "jobs/nightly.yaml")],
        *["--set", "policy.tau=2", "--retry-failed"],
    ]


def test_job_counts_relative_paths_from_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = make_schedule(spec=str(ROOT / "jobs/quickstart/job.yaml"), overrides=("policy.tau=2",)).job()
    assert job.source.uri == str(ROOT / "jobs/quickstart/documents.parquet")
    assert job.policy.tau == 2
    with pytest.raises(SpecError, match=r"directory: .*gone: No such file"):
        make_schedule(directory=str(tmp_path / "gone")).job()


OWN = """
from corm_batch import KVPolicy
class Own(KVPolicy, name="own"):
    '''Keeps all of it.'''
    size: int = {size}
"""


@pytest.fixture
def own(tmp_path, leave_no_plugin):
    """The file of a policy."""
    (tmp_path / "own.py").write_text(OWN.format(size=3))
    return tmp_path / "own.py"


def test_a_plugin_is_read_anew_for_each_run(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    schedule = make_schedule(plugins=("own.py",), overrides=("policy={name: own}",))
    assert schedule.arguments()[-2:] == ["--plugin", str(own)]
    assert make_schedule(plugins=["own.py"], address="http://head:8265").arguments()[-2:] == ["--plugin", str(own)]
    assert schedule.job().policy.size == 3
    own.write_text(OWN.format(size=4))
    assert schedule.job().policy.size == 4
    own.unlink()
    with pytest.raises(SpecError, match=r"own\.py: cannot read the plug-in"):
        schedule.job()


def test_a_pod_gets_the_plugins_that_its_spec_uses(own, tmp_path):
    (tmp_path / "other.py").write_text(OWN.format(size=5).replace('"own"', '"other"'))
    plugins = (str(own), str(tmp_path / "other.py"))
    schedule = make_schedule(plugins=plugins, overrides=("policy={name: own}",), retry_failed=True)
    for text, kind in ((cron_job(schedule, OPTIONS), "CronJob"), (ray_job(schedule, OPTIONS), "RayJob")):
        manifests = validated(text)
        (name,) = manifests["ConfigMap"]["data"].keys() - {"job.yaml"}
        assert manifests["ConfigMap"]["data"][name] == own.read_text()
        spec = manifests[kind]["spec"]
        command = spec.get("entrypoint") or " ".join(
            spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
        )
        assert command == f"corm-batch run /etc/corm-batch/job.yaml --plugin /etc/corm-batch/{name} --retry-failed"


@pytest.mark.parametrize(
    ("code", "interrupted", "outcome"),
    [
        (0, False, "ok"),
        (0, True, "ok"),
        (3, False, "failed documents"),
        (4, False, "stopped"),
        (1, False, "failed"),
        (2, False, "failed"),
        (-9, False, "failed"),
        (130, False, "cancelled"),
        (-15, False, "cancelled"),
        (130, True, "interrupted"),
        (-15, True, "interrupted"),
    ],
)
def test_outcomes(code, interrupted, outcome):
    state = RunState(considered_until=START).started(START, START)
    assert (state.outcome, state.seconds) == ("running", None)
    ended = state.ended(code, START + timedelta(seconds=90), interrupted=interrupted)
    assert (ended.outcome, ended.exit_code, ended.seconds) == (outcome, code, 90)


def test_considered_never_goes_back():
    state = RunState(considered_until=START)
    assert state.considered(START - timedelta(days=1)) == state
    assert state.started(START - timedelta(days=1), START).considered_until == START
