"""The path of infra/measure/report.py, small: it builds what a job would commit, and a page does not grow with it."""

import pytest

from corm_batch import read_results
from corm_batch.report.job_report import read_report
from infra.measure.report import FAILED_EVERY, LAYERS, build, draw, read


def test_a_page_of_three_times_as_many_documents_is_no_larger(tmp_path):
    pages = {}
    for count in (1500, 4500):
        build(tmp_path / str(count), count)
        pages[count] = draw(tmp_path / str(count))["page_bytes"]
    assert pages[4500] == pytest.approx(pages[1500], rel=0.02)


def test_what_is_built_is_an_output_of_two_runs(tmp_path):
    assert build(tmp_path, 2000)["parts"] == 3
    figures = read_report(str(tmp_path))
    assert (figures.documents, figures.failed, figures.runs) == (2000, 2000 * 9 // 10 // FAILED_EVERY, 2)
    assert (figures.pace.documents, figures.pace.untimed) == (2000, 0)
    assert len(figures.kept_per_layer) == LAYERS
    assert sum(figures.kept_per_layer) / LAYERS == pytest.approx(
        figures.kv_bytes_final / figures.kv_bytes_full, rel=1e-6
    )
    assert read(tmp_path, memory=True)["rows"] == read_results(str(tmp_path)).num_rows == 2000
