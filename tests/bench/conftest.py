"""A workload that takes no time, and figures that look like something."""

import pytest

from corm_batch.bench.result import BenchResult, Figures, Row
from corm_batch.bench.workload import WORKLOADS


@pytest.fixture(scope="session")
def small():
    """Five documents of 96 tokens, answers of 8; two layers of 4 heads and 2 kv heads of width 16, float32."""
    changes = {"prompt_tokens": 96, "output_tokens": 8, "documents": 5, "window": 16, "recent": 16, "max_kept": 32}
    return WORKLOADS["tiny-256"].model_copy(update={"name": "small", **changes})


@pytest.fixture
def make_row():
    def make(engine, documents_per_hour, **changes):
        figures = {
            "documents": 5, "wall_s": 2.0, "documents_per_hour": documents_per_hour, "prompt_tokens_per_s": 12_000.0,
            "output_tokens_per_s": 310.0, "prefill_tokens_per_s": 15_000.0, "decode_ms_per_step": 33.25,
            "documents_in_flight": 5, "kv_bytes_per_document": 3 * 2**20, "kept_ratio": 0.25,
            "peak_memory_bytes": 2**30, "limit_documents_per_hour": 2 * documents_per_hour, "limit_share": 0.5,
        }  # fmt: skip
        return Row(workload="small", engine=engine, prefill="exact", figures=Figures(**figures), **changes)

    return make


@pytest.fixture
def make_result(small, make_row):
    """A result with corm, full, and a generate that ran out of memory."""

    def make(**changes):
        rows = [
            make_row("corm", 9000.0),
            make_row("full", 4500.0),
            Row(workload="small", engine="generate", prefill="exact", reason="out of memory: 70 GiB"),
        ]
        fields = {
            "command": "corm-batch bench --workload small", "date": "2026-01-02T03:04:05+00:00",
            "versions": {"torch": "2"}, "device": "Card", "workloads": {"small": small}, "rows": rows,
        }  # fmt: skip
        return BenchResult(**fields | changes)

    return make
