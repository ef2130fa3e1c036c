"""The whole benchmark: rows in order, reasons instead of crashes, figures that follow from what was measured."""

import pytest
import torch

from corm_batch.bench import bench
from corm_batch.bench.bench import derive_figures, run_bench
from corm_batch.bench.ceilings import Ceilings
from corm_batch.bench.limit import attended_pairs, document_limit_s
from corm_batch.bench.result import Measured, Row
from corm_batch.bench.workload import ENGINES, WORKLOADS
from corm_batch.engine.config import EngineConfig
from corm_batch.errors import CapacityError, SpecError

CPU = torch.device("cpu")
RATES = Ceilings(copy_gb_per_s=1, read_gb_per_s=2, matmul_tflop_per_s=1, causal_tflop_per_s=1, sdpa_tflop_per_s=1)
ROW = Row(workload="small", engine="corm", prefill="exact")


def test_all_engines_on_two_workloads(small):
    longer = small.model_copy(update={"name": "longer", "prompt_tokens": 130})
    seen = []
    result = run_bench([small, longer], ENGINES, CPU, "streaming", "typed", on_row=lambda r: seen.append(len(r.rows)))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert [(row.workload, row.engine) for row in result.rows] == [(w, e) for w in ("small", "longer") for e in ENGINES]
    assert [row.prefill for row in result.rows[:3]] == ["streaming", "streaming", "exact"]
    assert all(row.reason is None and row.figures.documents == 5 for row in result.rows)
    assert set(result.ceilings) == set(result.workloads) == {"small", "longer"}
    assert result.versions["torch"] == torch.__version__
    assert result.command == "typed"


def test_figures_follow_from_what_was_measured(small):
    measured = Measured(
        documents=10, wall_s=4.0, prefill_tokens_per_s=1e4, decode_ms_per_step=2.0, documents_in_flight=5,
        kv_bytes_per_document=1000, kept_ratio=0.5,
    )  # fmt: skip
    figures = derive_figures(small, RATES, measured, ROW, None)
    assert figures.documents_per_hour == 9000
    assert figures.prompt_tokens_per_s == 240
    assert figures.output_tokens_per_s == 20
    limit_s = document_limit_s(small, RATES, 5, 0.5, 96 * 96 / 2)
    assert figures.limit_share == pytest.approx(limit_s / 0.4)
    assert figures.limit_documents_per_hour == pytest.approx(3600 / limit_s)


def test_streaming_is_counted_in_chunks(small):
    workload = small.model_copy(update={"prompt_tokens": 4000})
    measured = Measured(1, 1.0, 1.0, None, 1, 1, 0.1)
    figures = derive_figures(workload, RATES, measured, ROW.model_copy(update={"prefill": "streaming"}), None)
    limit_s = document_limit_s(workload, RATES, 1, 0.1, attended_pairs(4000, EngineConfig().chunk_size, 32))
    assert figures.limit_documents_per_hour == pytest.approx(3600 / limit_s)
    exact = derive_figures(workload, RATES, measured, ROW, None)
    assert figures.limit_documents_per_hour > exact.limit_documents_per_hour


def test_forms_of_weights_and_entries_stand_side_by_side(small):
    forms = {"weights": ("stored", "fp8"), "storages": ("model", "fp8")}
    result = run_bench([small], ["corm", "generate"], CPU, "exact", "typed", **forms)
    assert [(row.engine, row.weights, row.storage) for row in result.rows] == [
        ("corm", "stored", "model"), ("generate", "stored", "model"), ("corm", "stored", "fp8"),
        ("corm", "fp8", "model"), ("corm", "fp8", "fp8"),
    ]  # fmt: skip
    assert all(row.reason is None and row.figures.documents == 5 for row in result.rows)
    plain, _, stored, *_ = (row.figures for row in result.rows)
    assert stored.kv_bytes_per_document < plain.kv_bytes_per_document / 2
    assert stored.kept_ratio == plain.kept_ratio
    assert all(result.corm_over(row) == 1.0 for row in result.rows if row.engine == "corm")
    rate = result.rows[0].figures.documents_per_hour / result.rows[1].figures.documents_per_hour
    assert result.corm_over(result.rows[1]) == pytest.approx(rate)


def test_propagations_stand_side_by_side(small):
    longer = small.model_copy(update={"prompt_tokens": 600})
    result = run_bench([longer], ["corm", "full"], CPU, "exact", "typed", propagations=(None, "attention"))
    assert [(row.engine, row.propagation) for row in result.rows] == [
        ("corm", None), ("full", None), ("corm", "attention"), ("full", "attention"),
    ]  # fmt: skip
    full, less = result.rows[1].figures, result.rows[3].figures
    assert full.kept_ratio == 1.0
    assert less.kept_ratio == pytest.approx((1 + (180 + 7) / 607) / 2, abs=1e-3)
    assert less.limit_documents_per_hour > full.limit_documents_per_hour
    assert result.corm_over(result.rows[2]) == 1.0


def test_the_time_limit_starts_nothing_more(small):
    result = run_bench([small], ENGINES, CPU, "exact", "typed", time_limit_s=0)
    assert [row.figures for row in result.rows] == [None] * 3
    assert {row.reason for row in result.rows} == {"not measured: the time limit of 0 s had passed"}


def test_what_cannot_run_is_a_row_that_says_why(small, monkeypatch):
    errors = [
        torch.OutOfMemoryError("tried to allocate 7 GiB\nmore"),
        CapacityError("needs 9 bytes", bytes_needed=9, bytes_available=8),
    ]

    def fail(*arguments):
        raise errors.pop(0)

    monkeypatch.setattr(bench, "measure_engine", fail)
    monkeypatch.setattr(bench, "measure_ceilings", lambda workload, device: RATES)
    result = run_bench([small], ENGINES, CPU, "exact", "typed")
    reasons = ["out of memory: tried to allocate 7 GiB", "needs 9 bytes", None]
    assert [row.reason for row in result.rows] == reasons
    assert result.rows[2].figures.documents == 5


def test_weights_beyond_the_devices_memory_are_refused_with_what_would_fit(monkeypatch):
    large = WORKLOADS["llama3.1-70b-16k"]
    monkeypatch.setattr(bench, "_total_bytes", lambda device: 79 * 2**30)
    (row,) = run_bench([large], ["corm"], CPU, "exact", "typed").rows
    assert row.reason == (
        "the weights take 131.4 GiB, more than the device's memory of 79.0 GiB; --weights fp8 takes 67.7 GiB"
    )
    with pytest.raises(SpecError, match=r"of 40.0 GiB$"):
        bench.refuse_too_large(large, "fp8", 40 * 2**30)
    bench.refuse_too_large(large, "fp8", 79 * 2**30)
    bench.refuse_too_large(large, "stored", None)


def test_settings_that_contradict_each_other_are_refused_at_once(small):
    with pytest.raises(SpecError, match="max_kept"):
        run_bench([small, small.model_copy(update={"max_kept": 8})], ENGINES, CPU, "exact", "typed")
