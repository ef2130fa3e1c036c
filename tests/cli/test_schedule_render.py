"""corm-batch schedule render: what is printed, what is written, what is asked for."""

from pathlib import Path

import pytest
import yaml

from tests.schedule.manifests import validated

NIGHTLY = Path(__file__).parents[2] / "jobs/nightly.yaml"


@pytest.fixture
def render(corm_batch, tmp_path):
    """Call with a target and options; a schedule called nightly is there."""
    registry = ["--registry", tmp_path / "schedules"]
    zone = ["--cron", "0 4 * * *", "--time-zone", "Europe/Berlin"]
    assert corm_batch("schedule", "add", "nightly", NIGHTLY, *zone, *registry).code == 0
    return lambda target, *options: corm_batch("schedule", "render", target, "nightly", *options, *registry)


def test_systemd_on_standard_output(render, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = render("systemd", "--environment-file", "secrets.env")
    assert (result.code, result.err) == (0, "")
    service, _, timer = result.out.partition("# corm-batch-nightly.timer\n")
    assert service.startswith("# corm-batch-nightly.service\n")
    assert f"EnvironmentFile={tmp_path}/secrets.env\n" in service
    assert "OnCalendar=*-*-* 04:00:00 Europe/Berlin\n" in timer


def test_files_in_a_folder(render, tmp_path):
    result = render("systemd", "--into", tmp_path / "units")
    assert (result.code, result.out) == (0, "")
    names = {path.name for path in (tmp_path / "units").iterdir()}
    assert names == {"corm-batch-nightly.service", "corm-batch-nightly.timer"}
    assert f"{tmp_path}/units/corm-batch-nightly.timer: written\n" in result.err
    (tmp_path / "file").write_text("")
    assert "--into" in render("cron", "--into", tmp_path / "file").err


def test_cron(render):
    lines = render("cron").out.splitlines()
    assert "CRON_TZ=Europe/Berlin" in lines
    assert lines[-1].startswith("0 4 * * * cd ")


@pytest.mark.parametrize(
    ("target", "kind"), [("k8s-cronjob", "CronJob"), ("kuberay-rayjob", "RayJob"), ("kuberay-raycronjob", "RayCronJob")]
)
def test_manifests(render, target, kind):
    options = ["--image", "registry/corm-batch:1", "--namespace", "jobs", "--secret", "s3-access", "--memory", "48Gi"]
    result = render(target, *options)
    manifests = validated(result.out)
    assert set(manifests) == {"ConfigMap", kind}
    text = yaml.safe_dump(manifests[kind])
    assert all(value in text for value in ("registry/corm-batch:1", "namespace: jobs", "s3-access", "48Gi"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["k8s-cronjob"], "--image: k8s-cronjob needs the name of an image"),
        (["k8s-cronjob", "--image", "a", "--cpus", "lots"], "--cpus: expected cores such as 8 or 500m, got 'lots'"),
        (["cron", "--image", "a"], "--image: it is for Kubernetes, and cron has no pods"),
        (["k8s-cronjob", "--image", "a", "--environment-file", "b"], "--environment-file: it is for systemd and cron"),
        (["launchd"], "'launchd' is not one of"),
    ],
)
def test_wrong_arguments(render, arguments, message):
    result = render(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_unknown_schedule(corm_batch, tmp_path):
    result = corm_batch("schedule", "render", "cron", "weekly", "--registry", tmp_path)
    assert (result.code, result.err) == (2, "corm-batch: name: no schedule is called 'weekly'; there are: none\n")
