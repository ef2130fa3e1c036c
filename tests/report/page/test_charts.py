"""Charts say in their captions what they leave out, and hold one mark for each figure."""

from xml.etree import ElementTree

import pytest

from corm_batch.output.committed import read_committed
from corm_batch.report.comparison import compare
from corm_batch.report.job_details import Bin, Interval, Throughput, build_details
from corm_batch.report.page import charts
from tests.outputs import answered, commit


@pytest.fixture
def details(tmp_path):
    def read(rows):
        return build_details(read_committed(commit(tmp_path, rows)))

    return read


def shapes(figure, shape, kind):
    found = ElementTree.fromstring(figure.svg).iter(shape)
    return [element for element in found if element.attrib.get("class") == kind]


def tips(figure, shape, kind):
    return [element.find("title").text for element in shapes(figure, shape, kind)]


def test_sizes_one_by_one_and_in_groups(details):
    figure = charts.sizes_figure(details([answered("a"), answered("b", kv_bytes_peak=10 * 2**20)]).sizes)
    assert tips(figure, "rect", "full") == [
        "a: 8.0 MiB -> 2.0 MiB, 75.0% saved",
        "b: 8.0 MiB -> 10.0 MiB, none saved",
    ]
    assert figure.caption == "One bar for each of 2 documents."


def test_sizes_in_groups(details):
    figure = charts.sizes_figure(details([answered(str(number)) for number in range(1280)]).sizes)
    assert len(shapes(figure, "rect", "peak")) == 64
    assert tips(figure, "rect", "peak")[0] == "mean of 20 documents: 8.0 MiB -> 2.0 MiB, 75.0% saved"
    assert figure.caption.startswith("1,280 documents in 64 groups")


def texts(figure):
    return [text.text for text in ElementTree.fromstring(figure.svg).iter("text")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_documents_each_is_named_where_it_is_drawn(details, count):
    found = details([answered(f"d{number}", prompt_tokens=1000 * (number + 1)) for number in range(count)])
    (sizes,) = charts.memory_figures(found.sizes, found.savings)
    assert [text for text in texts(sizes) if "saved" in text] == [f"d{number}: 75.0% saved" for number in range(count)]
    lengths = charts.lengths_figure(found.documents, found.lengths, found.measured)
    names = [f"d{number}: {number + 1},000 tokens, 20.0% kept" for number in range(count)]
    assert [text for text in texts(lengths) if "tokens, " in text] == names
    for dot in shapes(lengths, "circle", "dot"):
        assert 64 < float(dot.attrib["cx"]) < 960
        assert 34 < float(dot.attrib["cy"]) < 270


def test_more_documents_are_not_named_and_their_savings_are_drawn(details):
    found = details([answered(f"d{number}") for number in range(4)])
    sizes, savings = charts.memory_figures(found.sizes, found.savings)
    assert not [text for text in texts(sizes) if "saved" in text]
    assert savings.caption == "4 documents in all, in steps of 1%."
    assert charts.memory_figures((), ()) == []


def test_savings():
    figure = charts.savings_figure((Bin(0.70, 0.72, 3), Bin(0.72, 0.74, 1)))
    assert tips(figure, "rect", "peak") == ["70% to 72%: 3 documents", "72% to 74%: 1 document"]
    assert figure.caption == "4 documents in all, in steps of 2%."
    assert "Below zero" in charts.savings_figure((Bin(-0.02, 0.0, 1),)).caption


def test_layers(details):
    figure = charts.layers_figure(details([answered("a")]).layers)
    assert tips(figure, "rect", "peak") == [
        "layer 0: 10.0% kept, p10 10.0%, p90 10.0%",
        "layer 1: 30.0% kept, p10 30.0%, p90 30.0%",
    ]
    assert len(shapes(figure, "polyline", "whisker")) == 2


def test_lengths_of_few_documents_on_a_straight_axis(details):
    found = details([answered("a", prompt_tokens=1000), answered("b", prompt_tokens=20_000)])
    figure = charts.lengths_figure(found.documents, found.lengths, found.measured)
    assert tips(figure, "circle", "dot") == ["a: 1,000 tokens, 20.0% kept", "b: 20,000 tokens, 20.0% kept"]
    assert figure.caption == "All 2 documents are shown."
    assert not shapes(figure, "polyline", "median")


def test_lengths_of_many_documents_with_their_spread(details):
    found = details([answered(str(number), prompt_tokens=number**2) for number in range(1100)])
    figure = charts.lengths_figure(found.documents, found.lengths, found.measured)
    assert len(shapes(figure, "circle", "dot")) == 1000
    assert len(shapes(figure, "polyline", "median")) == len(shapes(figure, "polygon", "spread")) == 1
    assert figure.caption.startswith("1,000 of 1,100 documents are shown, evenly spread over their lengths.")
    assert "over all 1,100, in 20 groups" in figure.caption


def test_throughput_in_suitable_units():
    intervals = (Interval(0.0, 3600.0, 20.0, 4_000_000.0), Interval(3600.0, 10_800.0, 10.0, 20_000_000.0))
    documents, tokens = charts.throughput_figures(Throughput(intervals, (0.0, 3600.0), 7))
    assert tips(documents, "rect", "peak") == [
        "0.0s to 1h00m: 20 documents a minute",
        "1h00m to 3h00m: 10 documents a minute",
    ]
    texts = [text.text for text in ElementTree.fromstring(tokens.svg).iter("text")]
    assert "tokens a minute (millions)" in texts
    assert "running time (hours)" in texts
    assert len(shapes(tokens, "polyline", "divider")) == 1
    assert "2 runs end to end" in tokens.caption
    assert "7 documents of which no time is known" in tokens.caption


def test_comparison(tmp_path):
    here = commit(tmp_path / "here", [answered("a")])
    there = commit(tmp_path / "there", [answered("a", kv_bytes_peak=4 * 2**20)])
    found = compare(*(read_committed(output, answers=True) for output in (here, there)), 10)
    figure = charts.comparison_figure(found.spread, found.answered)
    assert tips(figure, "circle", "dot") == ["a: 2.0 MiB here, 4.0 MiB there"]
    assert figure.caption.endswith("The one document is shown.")
