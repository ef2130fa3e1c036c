"""The page of a calibration."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from corm_batch.calibration.page import bytes_chart, render_calibration, speed_chart
from corm_batch.calibration.result import Loss
from tests.calibration.races import make_result
from tests.report.page.test_page import Page


def test_it_says_what_came_of_it_and_of_every_policy():
    result = make_result()
    content = render_calibration(result)
    page = Page(content)
    assert not page.open
    assert [row[0] for row in page.tables["tried"][0].rows] == [one.label for one in result.tried]
    assert page.tables["tried"][0].rows[1][2:] == ["16 held out", "0.30%", "-0.10%..0.70%", "2 of 16", "30.0%", "333"]
    assert page.tables["tried"][0].rows[4][1] == "failed: needs keys"
    assert "loses at most 0.70%, with 95 % confidence" in content
    assert "# calibrate: corm-batch calibrate job.yaml" in content
    assert "corm <b>" not in content


def test_it_warns_where_nothing_meets_the_limit():
    content = render_calibration(make_result(chosen=None))
    assert 'class="warning"' in content
    assert "the best that was found: snapkv pooled" in content
    assert 'id="section"' not in content


BYTES, SPEED = lambda one: one.peak_ratio, lambda one: one.documents_per_hour


@pytest.mark.parametrize(("chart", "x"), [(bytes_chart, BYTES), (speed_chart, SPEED)])
def test_policies_lie_where_their_figures_say_and_losses_far_above_the_limit_at_the_edge(chart, x):
    result = make_result()
    measured = [one for one in result.tried if one.loss is not None and one.state != "full cache"]
    root = ElementTree.fromstring(chart(result, measured).svg)
    dots = [dot for dot in root.iter() if dot.tag.endswith("circle")]
    assert len(dots) == 3
    by_place = sorted(measured, key=x)
    assert [next(iter(dot)).text.split(":")[0] for dot in sorted(dots, key=lambda dot: float(dot.get("cx")))] == [
        one.label for one in by_place
    ]
    assert len([line for line in root.iter() if line.get("class") == "whisker"]) == 2
    harsh = min(dots, key=lambda dot: float(dot.get("cy")))
    assert next(iter(harsh)).text.startswith("harsh: 49.18%")
    assert float(harsh.get("cy")) >= 30


def test_a_page_without_measured_policies_stands():
    empty = make_result(chosen=None, best=None, tried=[])
    assert "Loss against bytes held" not in render_calibration(empty)
    odd = Loss(documents=2, mean=700.0, low=-700.0, high=math.inf)
    wild = make_result(tried=[one.model_copy(update={"held_out": odd}) for one in make_result().tried[:2]])
    assert "<svg" in render_calibration(wild)
