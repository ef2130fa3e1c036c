"""The page of an evaluation: a curve a group, a row a figure, nothing escaped from."""

import re
from xml.etree import ElementTree

import pytest

from corm_batch.report.page.evaluation import curve, render_evaluation
from tests.evaluation.results import CANDIDATES, make_result
from tests.report.page.test_page import Page


@pytest.fixture(scope="module")
def content():
    return render_evaluation(make_result(failed=2))


def test_every_figure_is_a_row_under_its_groups_title(content):
    result, page = make_result(failed=2), Page(content)
    assert not page.open
    tables = page.tables["figures"]
    assert [len(table.rows) for table in tables] == [12, 12]
    assert tables[0].rows[0][:4] == ["all", "short", "exact", "14 (2 failed)"]
    assert sum(len(table.rows) for table in tables) == len(result.figures)
    assert [row[0] for row in page.tables["policies"][0].rows] == list(CANDIDATES)
    assert "<b>" not in content
    assert "2 answers failed" in content
    assert len(page.tables["failures"][0].rows) == 2


def test_the_curve_lies_where_its_figures_say():
    for found in make_result().groups():
        chart = curve(found)
        root = ElementTree.fromstring(chart.svg)
        dots = [dot for dot in root.iter() if dot.tag.endswith("circle")]
        assert len(dots) == len(CANDIDATES)
        short, snapkv = sorted(dots, key=lambda dot: float(dot.get("cx")))
        assert float(short.get("cy")) > float(snapkv.get("cy"))  # lower: it lost
        (tip,) = [child.text for child in short]
        assert re.match(r"short: -14\.3 \(.*\) points, 31\.2% of the bytes", tip)
        assert chart.caption == "14 cases, task all; question after the document. Interval: exact binomial, paired."


def test_a_page_without_figures_says_so():
    empty = make_result().model_copy(update={"figures": []})
    assert "No case has an answer of every run." in render_evaluation(empty)
