"""Alerts, dashboard and handbook read metrics that exist, and a live job exposes every one of them."""

import re
import shutil
import socket
import subprocess
import sys

import pytest

from corm_batch.pipeline.telemetry import JOB_TAG, METRICS
from tests.infra.deploy.conftest import DEPLOY, ROOT, load, problems
from tests.infra.deploy.live_job import JOB
from tests.infra.deploy.promql import label_names, metric_names

DEFINED = {name: metric for metric in METRICS for name in metric.exported}
GRAFANA_VARIABLES = {"$__rate_interval": "5m", "$__range": "1h"}


PROMTOOL = shutil.which("promtool")


def read_by_alerts(rules):
    return [rule["expr"] for rule in rules]


def read_by_dashboard(dashboard):
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What Prometheus gets from the driver's node during a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("live")
    command = [sys.executable, "-m", "tests.infra.deploy.live_job", str(folder), str(port)]
    environment = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def series(page):
    """(name, {label: value}, value) of every line of ours."""
    for name, labels, value in re.findall(r"^(ray_corm_batch_\w+)\{(.*)\} (\S+)$", page, flags=re.MULTILINE):
        yield name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


@pytest.mark.ray
def test_a_live_job_exposes_every_metric_and_no_other(page):
    found = {name for name, _, _ in series(page)}
    assert found == set(DEFINED)


@pytest.mark.ray
def test_what_a_live_job_says_is_true(page):
    values = {}
    for name, labels, value in series(page):
        metric = DEFINED[name]
        assert labels[JOB_TAG] == JOB
        if not name.endswith("_bucket"):
            values[name.removeprefix("ray_corm_batch_"), labels.get(metric.tag, "")] = value
    expected = {
        ("documents_total", "ok"): 8,
        ("documents_total", "failed"): 2,
        ("documents_total", "skipped"): 1,
        ("failures_total", "DocumentError"): 1,
        ("failures_total", "EngineDied"): 1,
        ("committed_documents_total", ""): 10,
        ("preemptions_total", ""): 8,
        ("queue_s_total", ""): 2,
        ("prefill_s_total", ""): 4,
        ("decode_s_total", ""): 8,
        ("answer_s_count", ""): 8,
        ("kept_ratio_count", ""): 8,
        ("source_documents", ""): 11,
        ("uncommitted_documents", ""): 0,
        ("running", ""): 0,
        ("waiting_documents", ""): 0,
        ("in_flight_documents", ""): 0,
    }
    assert {key: values[key] for key in expected} == expected
    assert values["replicas_lost_total", ""] == 3  # beside others, alone, and alone once more
    alike, failed = (values.get(("verified_documents_total", verdict), 0) for verdict in ("alike", "failed"))
    assert alike + failed == 8
    assert values["verify_s_total", ""] == alike / 2 > 0
    assert values["commit_s_count", ""] == values["parts_total", ""] >= 3
    assert values["kept_kv_bytes_total", ""] == values["full_kv_bytes_total", ""] / 4
    assert values["peak_kv_bytes_total", ""] == values["full_kv_bytes_total", ""] / 2
    assert sum(values["replicas", state] for state in ("ready", "loading", "empty")) == 1


def test_names_are_spelled_once():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for path in (ROOT / "corm_batch").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for metric in METRICS:
            short = metric.name.removeprefix("corm_batch_")
            spelled = text.count(f'"{metric.name}"') + text.count(f'_summed("{short}"')
            assert spelled == (path.relative_to(ROOT).as_posix() == "corm_batch/pipeline/telemetry.py"), (
                f"{path}: {metric.name}"
            )


def test_alerts_and_dashboard_read_what_exists(rules, dashboard):
    for expression in read_by_alerts(rules) + read_by_dashboard(dashboard):
        for name, value in GRAFANA_VARIABLES.items():
            expression = expression.replace(name, value)
        names = metric_names(expression)
        assert names
        assert names <= set(DEFINED) | {"up"}, expression
        allowed = {JOB_TAG, "le", "job", *(DEFINED[name].tag for name in names & set(DEFINED))}
        assert label_names(expression) <= allowed, expression
        for name in names & set(DEFINED):
            counted = name.endswith(("_total", "_bucket", "_count", "_sum"))
            assert not counted or re.search(rf"(rate|increase)\({name}\b", expression), expression


def test_every_metric_is_of_use(rules, dashboard):
    read = {name for text in read_by_alerts(rules) + read_by_dashboard(dashboard) for name in metric_names(text)}
    unused = [metric.name for metric in METRICS if not read.intersection(metric.exported)]
    assert unused == []


def test_dashboard_is_whole(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
        assert panel["description"]
        assert panel["type"] in ("stat", "timeseries", "heatmap")
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert f'{JOB_TAG}=~"$job_name"' in target["expr"]
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "job_name"]
    assert metric_names(dashboard["templating"]["list"][1]["definition"]) <= {*DEFINED, JOB_TAG}


def test_handbook_lists_every_metric():
    text = (DEPLOY / "operations.md").read_text(encoding="utf-8").partition("## Metrics")[2]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (?:`(\w+)`)? *\| (.+) \|$", text, flags=re.MULTILINE)
    exported = [(metric.exported[0].removesuffix("_bucket"), metric) for metric in METRICS]
    assert rows == [(name, metric.kind, metric.tag, metric.description) for name, metric in exported]


def test_rules_and_server_configuration_are_of_the_right_form(rules):
    assert problems(load("prometheus/rules.yaml"), "prometheus.yaml", "rules") == []
    assert problems(load("prometheus/prometheus.yml"), "prometheus.yaml", "server") == []
    assert len({rule["alert"] for rule in rules}) == len(rules)


def test_every_alert_says_what_to_do(rules):
    text = (DEPLOY / "operations.md").read_text(encoding="utf-8")
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^### (.+)$", text, flags=re.MULTILINE)}
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (file, anchor in anchors) == ("infra/deploy/operations.md", True), rule["alert"]
        assert f"`{rule['alert']}`" in text


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "infra/deploy/prometheus/prometheus.yml"],
        ["check", "rules", "infra/deploy/prometheus/rules.yaml"],
        ["test", "rules", "tests/infra/deploy/rules_test.yaml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments):
    done = subprocess.run([PROMTOOL, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
