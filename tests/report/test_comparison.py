"""Comparison of two outputs, worked out by hand."""

import pytest

from corm_batch.output.committed import read_committed
from corm_batch.report.comparison import compare
from tests.outputs import answered, commit, failed


@pytest.fixture
def compared(tmp_path):
    """Compare two lists of rows."""

    def call(here, there, limit=100):
        outputs = commit(tmp_path / "here", here), commit(tmp_path / "there", there)
        return compare(*(read_committed(output, answers=True) for output in outputs), limit)

    return call


def test_every_verdict(compared):
    here = [answered(name) for name in ("same", "answer", "text", "there", "only here")] + [
        failed("here"),
        failed("both"),
    ]
    there = [
        answered("same"),
        answered("answer", output="another"),
        answered("text", content_sha256="changed"),
        failed("there"),
        answered("here"),
        failed("both"),
        answered("only there"),
        answered("only there too"),
    ]
    found = compared(here, there)
    assert (found.only_here, found.only_there, found.shared, found.answered) == (1, 2, 6, 2)
    assert [(pair.here.doc_id, pair.verdict) for pair in found.documents] == [
        ("here", "failed here"),
        ("there", "failed there"),
        ("both", "failed in both"),
        ("answer", "answer differs"),
        ("text", "text differs"),
        ("same", "same answer"),
    ]
    assert all(count == 1 for count in found.verdicts.values())
    assert (found.documents[3].here.answer, found.documents[3].there.answer) == ("answer to answer", "another")
    assert found.documents[1].there.error_message == "is empty"


def test_sums_are_over_documents_of_one_text_that_both_answered(compared):
    here = [answered("a", kv_bytes_peak=2**20), answered("b"), failed("c"), answered("d")]
    there = [
        answered("b", kept_ratio=0.6),
        answered("a", decode_s=9.0),
        answered("c"),
        answered("d", content_sha256="x"),
    ]
    found = compared(here, there)
    assert found.answered == 2
    assert (found.here.kv_bytes_peak, found.there.kv_bytes_peak) == (3 * 2**20, 4 * 2**20)
    assert (found.here.saved_ratio, found.there.saved_ratio) == (13 / 16, 12 / 16)
    assert (found.here.kept_ratio, found.there.kept_ratio) == (0.2, pytest.approx(0.4))
    assert (found.here.decode_s, found.there.decode_s) == (2.0, 10.0)
    assert [(pair.here.doc_id, pair.there.doc_id) for pair in found.spread] == [("a", "a"), ("b", "b")]


def test_long_answers_that_differ_at_their_end(compared):
    found = compared([answered("a", output="x" * 1000 + "y")], [answered("a", output="x" * 1000 + "z")])
    assert found.documents[0].verdict == "answer differs"


def test_lists_are_bounded_and_what_differs_comes_first(compared):
    here = [answered(f"{number:02}", prompt_tokens=number) for number in range(50)]
    there = [
        answered(f"{number:02}", output="other" if number == 49 else f"answer to {number:02}") for number in range(50)
    ]
    found = compared(here, there, limit=3)
    assert [pair.here.doc_id for pair in found.documents] == ["49", "00", "01"]
    assert [pair.here.doc_id for pair in found.spread] == ["00", "24", "49"]
    assert found.shared == 50


def test_nothing_in_common(compared):
    found = compared([answered("a")], [answered("b")])
    assert (found.shared, found.answered, found.documents, found.spread) == (0, 0, (), ())
    assert found.here.saved_ratio == 0.0


def test_an_output_with_itself(compared):
    found = compared([answered("a"), failed("b")], [answered("a"), failed("b")])
    assert (found.verdicts["same answer"], found.verdicts["failed in both"], found.here) == (1, 1, found.there)
