"""Axes with round marks; drawings that are well formed whatever they are told."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from corm_batch.report.page.svg import Axis, Chart, linear_axis, log_axis, stacked_bar, up_to


def marks(axis):
    return [text for _, text in axis.ticks]


def test_linear_marks_are_round():
    assert marks(linear_axis("x", 0, 10)) == ["0", "2", "4", "6", "8", "10"]
    assert marks(linear_axis("x", -0.3, 0.2, unit=0.01, suffix="%")) == ["-30%", "-20%", "-10%", "0%", "10%", "20%"]
    assert marks(linear_axis("x", 0, 3 * 2**20, unit=2**20)) == ["0", "0.5", "1", "1.5", "2", "2.5", "3"]
    assert marks(linear_axis("x", 0, 20_000_000)) == ["0", "5,000,000", "10,000,000", "15,000,000", "20,000,000"]


def test_whole_marks_only():
    assert marks(linear_axis("layer", -0.5, 2.5, whole=True)) == ["0", "1", "2"]


def test_an_axis_without_length_gets_one():
    assert linear_axis("x", 0, 0).high == 1
    assert linear_axis("x", 5, 5, unit=0.01).high > 5


@pytest.mark.parametrize(
    ("value", "unit", "end"), [(9.3, 1, 10), (10, 1, 10), (0.21, 0.01, 0.25), (0, 0.01, 0.01), (1, 1, 1)]
)
def test_up_to_the_next_mark(value, unit, end):
    assert up_to(value, unit) == pytest.approx(end)


def test_log_marks_and_places():
    axis = log_axis("tokens", 100, 1_000_000)
    assert marks(axis) == ["100", "1,000", "10,000", "100,000", "1,000,000"]
    assert marks(log_axis("tokens", 10, 400)) == ["10", "20", "50", "100", "200"]
    assert axis.place(10_000) == pytest.approx(0.5, abs=0.01)


def test_values_outside_are_moved_to_the_end():
    axis = linear_axis("x", 0, 10)
    assert (axis.place(-5), axis.place(5), axis.place(50)) == (0.0, 0.5, 1.0)


def test_everything_is_drawn_and_escaped():
    hostile = "</title><script>alert('1')</script>\"&"
    axis = linear_axis(hostile, 0, 10)
    chart = Chart(hostile, axis, axis)
    chart.bar((0, 1), (0, 5), "peak", hostile)
    chart.dot(3, 4, "dot", hostile)
    chart.line([(0, 0), (1, 1)], "median", hostile)
    chart.band([(0, 1, 2), (1, 2, 3)], "spread", hostile)
    assert "<script" not in chart.markup()
    root = ElementTree.fromstring(chart.markup())
    assert root.attrib["role"] == "img"
    assert [root.find(f"{shape}/title").text for shape in ("rect", "circle", "polyline", "polygon")] == [hostile] * 4
    assert root[0].text == hostile


def test_a_bar_lies_between_its_values():
    axis = linear_axis("x", 0, 10)
    chart = Chart("t", axis, axis, height=284)  # 200 between the axes, 904 across
    chart.bar((0, 5), (0, 10), "peak", "")
    bar = ElementTree.fromstring(chart.markup()).find("rect").attrib
    assert (bar["x"], bar["y"], bar["width"], bar["height"]) == ("64", "34", "452", "200")


def test_marks_whose_texts_would_touch_are_left_out():
    ticks = tuple((float(number), "a long text") for number in range(100))
    chart = Chart("t", Axis("x", 0, 100, ticks), linear_axis("y", 0, 1))
    texts = [text for text in ElementTree.fromstring(chart.markup()).iter("text") if text.text == "a long text"]
    places = [float(text.attrib["x"]) for text in texts]
    assert 2 < len(places) < 12
    assert min(b - a for a, b in pairwise(places)) > 88


def test_stacked_bar():
    bar = ElementTree.fromstring(stacked_bar([("queue", 1.0), ("decode", 3.0)], 8.0))
    assert [(part.attrib["class"], part.attrib["x"], part.attrib["width"]) for part in bar] == [
        ("queue", "0", "20"),
        ("decode", "20", "60"),
    ]
    assert "width" in stacked_bar([("queue", 0.0)], 0.0)
