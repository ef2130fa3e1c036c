"""Two outputs with all there is to show, of hostile documents, and the page about them."""

import pytest

from corm_batch.output.committed import read_committed
from corm_batch.report.answers import answers_of
from corm_batch.report.comparison import compare
from corm_batch.report.fields import field_figures
from corm_batch.report.job_details import MAX_DOCUMENTS, build_details
from corm_batch.report.job_report import build_report
from corm_batch.report.listed_documents import evenly
from corm_batch.report.page.page import render_page
from tests.outputs import answered, commit, failed

HOSTILE = "</title></script></style><script>document.title='taken'</script>"
HOSTILE += "<img src=http://x onerror='alert(1)'>\"'&\x00\u202e"


@pytest.fixture
def render():
    """Call with an output and another one; returns the page and what it is about."""

    def call(output, other=None, scores=None):
        committed = read_committed(output, answers=True)
        comparison = compare(committed, read_committed(other, answers=True), MAX_DOCUMENTS) if other else None
        figures, details = build_report(committed), build_details(committed)
        answers = answers_of(output, evenly(committed.rows.sort_by("doc_id"), 500), 300)
        page = render_page(output, figures, details, field_figures(output), answers, other or "", comparison, scores)
        return page, figures, details, comparison

    return call


@pytest.fixture
def hostile(tmp_path):
    """An output and another one of the same documents, whose texts try to leave the page's cells."""
    here = [
        answered(f"{HOSTILE} {number}", prompt_tokens=1000 + number, output=HOSTILE, prefill_s=float(number))
        for number in range(50)
    ]
    here += [failed("f", HOSTILE, f"{HOSTILE} {HOSTILE}", policy=f'{{"name": "x", "y": "<script>{1}"}}')]
    there = [{**row, "output": "other"} for row in here[:25]] + here[25:] + [answered("more")]
    commit(tmp_path / "here", here[:30])
    commit(tmp_path / "here", here[30:], number=1, after_s=200)
    commit(tmp_path / "there", there)
    return str(tmp_path / "here"), str(tmp_path / "there")
