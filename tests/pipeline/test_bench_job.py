"""A workload through a whole job: what the job is, and what is made of the times at which things happen."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from corm_batch.bench import bench
from corm_batch.bench.bench import run_bench
from corm_batch.bench.ceilings import Ceilings
from corm_batch.bench.result import Row
from corm_batch.bench.workload import WORKLOADS
from corm_batch.errors import BrokenEngineError, ModelLoadError
from corm_batch.pipeline import bench_job
from corm_batch.pipeline.bench_job import job_spec, load_random, measure_job, steady_per_hour, write_documents
from corm_batch.pipeline.progress import Event, Progress
from corm_batch.pipeline.stages import LOADING, READING

CPU = torch.device("cpu")
ROW = Row(workload="small", engine="corm", prefill="streaming")


@pytest.fixture
def small(monkeypatch):
    """A workload that takes no time, on a device of known speed."""
    rates = Ceilings(copy_gb_per_s=1, read_gb_per_s=2, matmul_tflop_per_s=1, causal_tflop_per_s=1, sdpa_tflop_per_s=1)
    monkeypatch.setattr(bench, "measure_ceilings", lambda workload, device: rates)
    changes = {"prompt_tokens": 96, "output_tokens": 4, "documents": 2, "window": 16, "recent": 16, "max_kept": 32}
    return WORKLOADS["tiny-256"].model_copy(update={"name": "small", **changes})


def test_a_job_stands_beside_its_engine(small, without_a_cluster, monkeypatch):
    loaded, load = [], bench_job.load_random

    def note(spec, shape):
        loaded.append(load(spec, shape))
        return loaded[-1]

    monkeypatch.setattr(bench_job, "load_random", note)
    result = run_bench([small], ["corm", "generate"], CPU, "streaming", "typed", measure_job=measure_job)
    corm, generate = result.rows
    assert (corm.reason, corm.job.documents, corm.job.replicas, generate.job) == (None, 2, 1, None)
    job = corm.job
    assert 0 < job.start_s + job.load_s + job.first_answer_s + job.steady_s <= job.wall_s
    assert corm.of_engine(2 * corm.figures.documents_per_hour) == 2
    engine = loaded[0].engine
    assert (engine.config.prefill, engine.config.max_sequences) == ("streaming", 2)
    assert engine.stats.prompt_tokens == 2 * 96
    assert engine.stats.output_tokens == 2 * 4


def test_weights_are_drawn_in_the_form_of_the_row(small, tmp_path):
    row = ROW.model_copy(update={"weights": "fp8", "storage": "fp8", "engine": "full"})
    spec = job_spec(small, row, CPU, 2, tmp_path)
    assert (spec.cluster.replicas, spec.model.weights, spec.policy.to_spec()["name"]) == (2, "fp8", "full")
    assert spec.engine.storage.name == "fp8"
    bench_job.write_model(small.model, tmp_path / "model")
    write_documents(spec, small, 2)
    model = load_random(spec, small.model)
    assert any(parameter.dtype == torch.float8_e4m3fn for parameter in model.engine.model.module.parameters())
    assert model.tokenizer.end_token_ids == model.engine.model.eos_token_ids == frozenset()


def test_a_job_that_fails_is_a_reason(small):
    def fails(workload, row, device):
        raise ModelLoadError("no weights")

    (row,) = run_bench([small], ["corm"], CPU, "exact", "typed", measure_job=fails).rows
    assert row.reason == "through the job: no weights"
    assert (row.figures.documents, row.job, row.of_engine(1.0)) == (2, None, None)


def test_a_document_that_fails_fails_the_measurement(small, without_a_cluster, monkeypatch):
    def write(spec, workload, count):
        pq.write_table(pa.table({"doc_id": ["a"], "text": pa.array([None], pa.string())}), spec.source.uri)

    monkeypatch.setattr(bench_job, "write_documents", write)
    with pytest.raises(BrokenEngineError, match="text"):
        measure_job(small, ROW, CPU)


def test_times_are_cut_at_stages_and_answers(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(bench_job.time, "monotonic", lambda: now[0])
    clock, row = bench_job._Clock(), type("Answered", (), {"result": {}})
    for now[0], event in [
        (102.0, Event("stage", Progress(), message="starting a replica")),
        (104.0, Event("stage", Progress(), message=LOADING)),
        (109.0, Event("stage", Progress(), message=READING)),
        (110.0, Event("tick", Progress())),
        *((at, Event("document", Progress(), row=row)) for at in (112.0, 112.5, 120.0, 121.0)),
    ]:
        clock(event)
    job = clock.figures(1, 22.0)
    assert (job.start_s, job.load_s, job.first_answer_s, job.steady_s, job.wall_s) == (4.0, 5.0, 3.0, 9.0, 22.0)
    assert job.documents_per_hour == pytest.approx(3600 * 4 / 12)
    assert job.steady_documents_per_hour == pytest.approx(3600 * 2 / 9)
    assert steady_per_hour([3.0, 3.5]) is None
