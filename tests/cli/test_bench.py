"""corm-batch bench."""

import json

import pytest

from corm_batch.bench.result import BenchResult, JobFigures
from corm_batch.bench.workload import WORKLOADS
from corm_batch.pipeline import bench_job


def test_without_a_workload_it_lists_them(corm_batch):
    result = corm_batch("bench")
    assert result.code == 0
    lines = {line.split(" ")[0]: line for line in result.out.splitlines()}
    assert set(WORKLOADS) <= set(lines)
    assert lines["llama2-7b-4k"].endswith("2.1 GiB")


def test_engines_side_by_side(corm_batch, tmp_path):
    path = tmp_path / "new" / "tiny.json"
    result = corm_batch("bench", "--workload", "tiny-256", "--device", "cpu", "--documents", 4, "--output", path)
    assert result.code == 0
    written = BenchResult.model_validate_json(path.read_text())
    assert json.loads(path.read_text())["schema_version"] == "corm-batch bench 1"
    assert [row.engine for row in written.rows] == ["corm", "full", "generate"]
    assert all(row.figures.documents == 4 for row in written.rows)
    corm, full, generate = (row.figures for row in written.rows)
    assert corm.kept_ratio < 0.3 < full.kept_ratio == generate.kept_ratio
    assert corm.kv_bytes_per_document < full.kv_bytes_per_document / 2
    assert written.command.startswith("corm-batch bench --workload tiny-256 --device cpu --documents 4 --output ")

    assert (
        "tiny-256: 4 documents of 256 + 32 tokens, float32, corm keeps at most 64 a head, exact prefill" in result.out
    )
    rows = {line.split(" ")[0]: line.split("|") for line in result.out.splitlines() if "|" in line}
    assert rows["full"][1].strip() == f"{full.documents_per_hour:,.0f}"
    assert rows["full"][-1].strip() == f"{corm.documents_per_hour / full.documents_per_hour:.2f}x"
    assert "stands for the kept ratio of a trained model" in result.out
    assert "tiny-256 corm: " in result.err


def test_propagations_by_name(corm_batch):
    asked = ["bench", "--workload", "tiny-256", "--device", "cpu", "--documents", 1, "--engine", "corm"]
    result = corm_batch(*asked, "--propagation", "attention", "--propagation", "none")
    assert result.code == 0
    assert [line.split("|")[0].strip() for line in result.out.splitlines() if line.startswith("corm")] == [
        "corm", "corm, attention",
    ]  # fmt: skip
    result = corm_batch(*asked, "--propagation", "fastkv")
    assert result.code == 2
    assert "--propagation: there is no 'fastkv'; known: none, attention, cumulative" in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "corm"], "--engine: nothing is measured without --workload"),
        (["--workload", "tiny-256", "--replicas", 2], "--replicas: they are those of --through job"),
    ],
)
def test_options_that_say_nothing_are_refused(corm_batch, options, said):
    result = corm_batch("bench", *options)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_one_engine_and_no_time(corm_batch):
    result = corm_batch(
        "bench",
        "--workload",
        "tiny-256",
        "--device",
        "cpu",
        "--engine",
        "full",
        "--prefill",
        "streaming",
        "--time-limit",
        0,
    )
    assert result.code == 0
    assert "Not measured" in result.out
    assert "the time limit of 0 s had passed" in result.out
    assert "streaming prefill" in result.out
    assert "generate " not in result.out.partition("Ceilings")[0]


def test_a_job_has_a_table_of_its_own(corm_batch, monkeypatch, tmp_path):
    def measure(workload, row, device, replicas):
        assert (workload.name, row.name, device.type) == ("tiny-256", "corm", "cpu")
        return JobFigures(
            replicas=replicas, documents=8, wall_s=100.0, start_s=4.0, load_s=20.0, first_answer_s=6.0, steady_s=62.5,
            documents_per_hour=420.0, steady_documents_per_hour=None,
        )  # fmt: skip

    monkeypatch.setattr(bench_job, "measure_job", measure)
    path = tmp_path / "job.json"
    arguments = "--workload", "tiny-256", "--device", "cpu", "--documents", 4, "--engine", "corm", "--output", path
    result = corm_batch("bench", *arguments, "--through", "job", "--replicas", 2)
    assert result.code == 0
    (row,) = BenchResult.model_validate_json(path.read_text()).rows
    assert row.job.documents == 8
    assert "tiny-256 through the whole job" in result.out
    cells = [cell.strip() for line in result.out.splitlines() if "1m02s" in line for cell in line.split("|")]
    share = f"{100 * row.of_engine(420.0):.1f}%"
    assert cells == ["corm", "2", "420", share, "-", "-", "4.0s", "20.0s", "6.0s", "1m02s", "1m40s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "huge"], "--workload: there is no 'huge'; known: tiny-256, llama2-7b-4k"),
        (["--workload", "tiny-256", "--engine", "vllm"], "--engine: there is no 'vllm'; known: corm, full, generate"),
        (["--workload", "tiny-256", "--weights", "int4"], "--weights: there is no 'int4'; known: stored, fp8"),
        (
            ["--workload", "tiny-256", "--storage", "int2"],
            "--storage: there is no 'int2'; known: fp8, int4, int8, lorc, model, think",
        ),
        (["--workload", "tiny-256", "--max-kept", "8"], "max_kept (8) must be at least recent (32)"),
        (["--workload", "tiny-256", "--documents", "0"], "--documents"),
    ],
)
def test_wrong_arguments_exit_2(corm_batch, arguments, message):
    result = corm_batch("bench", *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.out == ""
