"""JobDetails: spreads, groups and rates, worked out by hand; bounded lists."""

import pytest

from corm_batch.output.committed import read_committed
from corm_batch.report import job_details
from corm_batch.report.job_details import Interval, build_details
from corm_batch.report.job_report import Spread
from tests.outputs import RUN, answered, commit, failed


def details(output):
    return build_details(read_committed(str(output)))


def test_layers_spread_over_documents(tmp_path):
    # 1000 entries a layer each: a tenth to all of them kept in the first layer, half in the second
    rows = [
        answered(str(tenth), kept_per_layer=[100 * tenth, 500], kept_ratio=(100 * tenth + 500) / 2000)
        for tenth in range(1, 11)
    ]
    first, second = details(commit(tmp_path, rows)).layers
    assert first == Spread(pytest.approx(0.55), pytest.approx(0.19), pytest.approx(0.91))
    assert second == Spread(*[pytest.approx(0.5)] * 3)


def test_models_of_different_depth_have_no_layers(tmp_path):
    found = details(commit(tmp_path, [answered("a"), answered("b", kept_per_layer=[1, 2, 3])]))
    assert found.layers == ()
    assert found.measured == 2


def test_sizes_are_one_document_each_or_groups_of_equal_count(tmp_path):
    few = [answered(str(number), kv_bytes_full=100 + number, kv_bytes_peak=50) for number in range(3)]
    found = details(commit(tmp_path / "few", few)).sizes
    assert [(group.doc_id, group.kv_bytes_full) for group in found] == [("2", 102), ("1", 101), ("0", 100)]
    many = [answered(str(number), kv_bytes_full=number + 1, kv_bytes_peak=1) for number in range(640)]
    found = details(commit(tmp_path / "many", many)).sizes
    assert len(found) == 64
    assert {group.documents for group in found} == {10}
    assert (found[0].doc_id, found[0].kv_bytes_full) == (None, 635.5)  # the mean of 631 to 640


def test_savings_are_counted_in_steps_that_suit_their_range(tmp_path):
    peaks = (300, 305, 312, 340)
    rows = [answered(str(peak), kv_bytes_full=1000, kv_bytes_peak=peak) for peak in peaks]
    found = details(commit(tmp_path / "narrow", rows)).savings
    assert [(round(part.low, 2), part.documents) for part in found] == [
        (0.66, 1),
        (0.67, 0),
        (0.68, 1),
        (0.69, 1),
        (0.7, 1),
    ]
    wide = [*rows, answered("x", kv_bytes_full=1, kv_bytes_peak=4096)]
    found = details(commit(tmp_path / "wide", wide)).savings
    assert (found[0].low, found[0].documents) == (-1.0, 1)
    assert sum(part.documents for part in found) == 5
    assert len(found) <= 24


def test_kept_against_length_in_bands_of_equal_count(tmp_path):
    rows = [answered(str(n), prompt_tokens=n, kept_ratio=0.5 if n < 50 else 0.1) for n in range(1, 101)]
    found = details(commit(tmp_path, rows)).lengths
    assert [band.tokens for band in found] == [10.5, 30.5, 50.5, 70.5, 90.5]
    assert [band.p50 for band in found] == [0.5, 0.5, 0.1, 0.1, 0.1]
    assert found[2].p90 == 0.5


def test_few_documents_have_no_bands(tmp_path):
    assert details(commit(tmp_path, [answered(str(number)) for number in range(39)])).lengths == ()


def test_throughput_of_two_runs_end_to_end(tmp_path):
    commit(tmp_path, [answered("a"), failed("b", prompt_tokens=None, output_tokens=None)], after_s=60)
    commit(tmp_path, [answered("c")], number=1, after_s=180)
    later = "20261122T030000Z-bbbbbb"  # an hour on: the second row of `a` counts as well
    commit(tmp_path, [answered("a")], run_id=later, after_s=3600 + 30)
    found = details(tmp_path).throughput
    assert found.intervals == (
        Interval(0.0, 60.0, 2.0, 1010.0),
        Interval(60.0, 180.0, 0.5, 505.0),
        Interval(180.0, 210.0, 2.0, 2020.0),
    )
    assert (found.run_starts_s, found.left_out) == ((0.0, 180.0), 0)


def test_parts_of_which_no_time_is_known_are_counted(tmp_path):
    commit(tmp_path, [answered("a"), answered("b")], run_id="run-1")
    assert details(tmp_path).throughput.intervals == ()
    assert details(tmp_path).throughput.left_out == 2
    commit(tmp_path, [answered("c")], run_id="run-1", number=1, after_s=61)
    assert [part.documents_per_min for part in details(tmp_path).throughput.intervals] == [60.0]


def test_many_parts_become_a_bounded_number_of_intervals(tmp_path):
    for number in range(200):
        commit(tmp_path, [answered(str(number))], number=number, after_s=number + 1)
    found = details(tmp_path).throughput.intervals
    assert 60 <= len(found) <= 120
    assert sum(part.documents_per_min * (part.end_s - part.start_s) / 60 for part in found) == pytest.approx(200)
    assert (found[0].start_s, found[-1].end_s) == (0.0, 200.0)


def test_lists_are_bounded_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(job_details, "MAX_DOCUMENTS", 10)
    rows = [answered(f"ok{number}", prompt_tokens=number) for number in range(50)]
    found = details(commit(tmp_path, rows))
    assert [document.prompt_tokens for document in found.documents] == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]
    assert found.measured == 50
    assert len(found.slowest) == 20


def test_no_answer_at_all(tmp_path):
    found = details(commit(tmp_path, [failed("a")]))
    assert (found.documents, found.sizes, found.savings, found.layers, found.lengths, found.slowest) == ((),) * 6


def test_the_time_of_the_newest_part(tmp_path):
    commit(tmp_path, [answered("a")], after_s=100)
    commit(tmp_path, [answered("b")], run_id=RUN, number=1, after_s=90)  # a clock that went back
    assert details(tmp_path).committed_at.second == 40
    assert details(tmp_path).throughput.left_out == 1
