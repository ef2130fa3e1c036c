"""Choosing documents to list."""

import pyarrow as pa

from corm_batch.output.committed import read_committed
from corm_batch.report.listed_documents import DocumentFigures, by_length, document_figures, evenly
from tests.outputs import answered, commit, failed


def test_answered_documents_with_figures_by_length_then_id(tmp_path):
    rows = [answered("long", prompt_tokens=9), answered("b"), answered("a"), failed("failed")]
    rows += [answered("no figures", kept_ratio=None), answered("nan", kept_ratio=float("nan"))]
    rows += [answered("no bytes", kv_bytes_full=0)]
    found = by_length(read_committed(commit(tmp_path, rows)).rows)
    assert [document.doc_id for document in document_figures(found)] == ["long", "a", "b"]


def test_evenly_holds_both_ends():
    rows = pa.table({"doc_id": [str(number) for number in range(1001)]})
    assert evenly(rows, 2000).num_rows == 1001
    assert evenly(rows, 5)["doc_id"].to_pylist() == ["0", "250", "500", "750", "1000"]


def test_ratios_and_times_that_are_not_known():
    assert DocumentFigures("a").saved_ratio is None
    assert DocumentFigures("a", prefill_s=1.0).busy_s is None
    assert DocumentFigures("a", kv_bytes_full=100, kv_bytes_peak=120).saved_ratio == 1 - 1.2
