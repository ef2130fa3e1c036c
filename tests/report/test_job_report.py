"""JobReport: the figures of a table, worked out by hand."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from corm_batch.audit.bounds import upper_bound
from corm_batch.data.schema import MEMORY_FIELDS, RESULT_FIELDS, RESULT_NAMES
from corm_batch.output.committed import Committed
from corm_batch.output.run_records import RunRecord
from corm_batch.report.failures import Message
from corm_batch.report.job_report import Pace, Spread, build_report
from corm_batch.report.totals import totals_rows

RESULTS = [pa.field(field.name, pa.int32()) if field.name == "failed_fields" else field for field in RESULT_FIELDS]
SCHEMA = pa.schema([*RESULTS, *(field for field in MEMORY_FIELDS if field.name not in RESULT_NAMES)])


def answered(doc_id, **figures):
    row = {
        "doc_id": doc_id,
        "content_sha256": "c",
        "fingerprint": "f",
        "run_id": "run-1",
        "status": "ok",
        "output": "blue",
        "prompt_tokens": 100,
        "output_tokens": 10,
        "prefill_s": 1.0,
        "decode_s": 2.0,
        "queue_s": 0.5,
        "committed_at": datetime.now(UTC),
        "kv_bytes_full": 1000,
        "kv_bytes_peak": 400,
        "kv_bytes_final": 300,
        "kept_ratio": 0.5,
        "kept_per_layer": [60, 40],
        "evicted_attention_mass": 0.01,
        "preemptions": 0,
        "policy": '{"name": "corm"}',
    }
    return row | figures


def failed(doc_id, error_type, message, **figures):
    row = {key: answered(doc_id)[key] for key in ("doc_id", "content_sha256", "fingerprint", "run_id", "committed_at")}
    return row | {"status": "failed", "error_type": error_type, "error_message": message} | figures


def report(*rows, records=()):
    return build_report(Committed(pa.Table.from_pylist(rows, schema=SCHEMA), (), tuple(records), ()))


def test_memory_is_that_of_answered_documents_tokens_and_time_that_of_all():
    spent = {"kv_bytes_full": 9, "prompt_tokens": 7, "output_tokens": 3, "prefill_s": 0.5, "decode_s": 0.5}
    figures = report(answered("a"), answered("b", run_id="run-2"), failed("c", "DocumentError", "no", **spent))
    assert (figures.documents, figures.ok, figures.failed, figures.runs) == (3, 2, 1, 2)
    assert (figures.prompt_tokens, figures.output_tokens) == (207, 23)
    assert (figures.kv_bytes_full, figures.kv_bytes_peak, figures.kv_bytes_final) == (2000, 800, 600)
    assert (figures.queue_s, figures.prefill_s, figures.decode_s) == (0.5, 2.5, 4.5)
    assert figures.saved_ratio == pytest.approx(0.6)


def test_pace_of_rows_that_stand():
    """Two runs of ten seconds: the second answered one of the first one's two documents again."""
    records = [RunRecord("run-1", 2, 10.0), RunRecord("run-2", 1, 10.0)]
    figures = report(answered("a"), answered("b", run_id="run-2"), answered("c", run_id="killed"), records=records)
    assert figures.pace == Pace(documents=2, tokens=220, seconds=15.0, untimed=1)
    assert figures.tokens_per_s == pytest.approx(220 / 15)


def test_gpu_time_and_cost_are_those_of_rows_that_stand():
    """Of the first run's two documents one stands; the runs had prices of their own."""
    records = [
        RunRecord("run-1", 2, 10.0, gpu_s=7200.0, price_per_gpu_hour=2.0),
        RunRecord("run-2", 1, 10.0, gpu_s=1800.0, price_per_gpu_hour=4.0),
    ]
    rows = [answered("a"), answered("b", run_id="run-2"), answered("c", run_id="killed")]
    figures = report(*rows, records=records)
    assert (figures.pace.gpu_s, figures.pace.cost) == (3600.0 + 1800.0, 2.0 + 2.0)
    said = dict(totals_rows(figures))
    assert said["GPU time"] == "1.5 GPU hours, 1.3 documents an hour of a GPU, cost 4.00, of 1,000 documents 2,000.00"
    unpriced = report(*rows, records=[records[0], RunRecord("run-2", 1, 10.0, gpu_s=1800.0)])
    assert (unpriced.pace.gpu_s, unpriced.pace.cost) == (5400.0, None)
    assert dict(totals_rows(unpriced))["GPU time"] == "1.5 GPU hours, 1.3 documents an hour of a GPU"
    on_a_cpu = report(*rows, records=[records[0], RunRecord("run-2", 1, 10.0)])
    assert on_a_cpu.pace.cost == 2.0
    assert "GPU time" not in dict(totals_rows(report(*rows, records=[RunRecord("run-1", 2, 10.0)])))


def test_a_run_whose_rows_are_all_replaced_does_not_count():
    records = [RunRecord("run-1", 1, 10.0), RunRecord("run-2", 1, 30.0)]
    assert report(answered("a", run_id="run-2"), records=records).pace == Pace(1, 110, 30.0, 0)


def test_all_failed_is_a_pace_too():
    rows = [failed("a", "E", "no", prompt_tokens=50, output_tokens=2), failed("b", "E", "no")]
    figures = report(*rows, records=[RunRecord("run-1", 2, 4.0)])
    assert figures.pace == Pace(2, 52, 4.0, 0)
    shown = dict(totals_rows(figures))
    assert shown["tokens"] == "50 read, 2 written"
    assert shown["throughput"] == "13 tokens/s, 1800 documents/h, over 4.0s"
    assert (shown["KV bytes full -> peak"], shown["kept ratio"]) == ("-", "-")
    assert "evicted attention" not in shown


def test_a_report_says_that_the_newest_run_was_limited():
    limited = RunRecord("run-1", 1, 1.0, selection="the first 3 documents of the source")
    whole = RunRecord("run-2", 1, 1.0)
    shown = dict(totals_rows(report(answered("a"), records=[limited])))
    assert shown["limited"] == "the newest run, to the first 3 documents of the source; others may be left"
    assert "limited" not in dict(totals_rows(report(answered("a"), records=[limited, whole])))
    assert "limited" not in dict(totals_rows(report(answered("a"))))


def test_answers_that_were_cut_off_and_files_that_were_not_read_are_said():
    older, newer = (RunRecord(f"run-{number}", 1, 1.0, ((f"{number}.gz", "cut"),)) for number in (1, 2))
    rows = [answered("a", finish_reason="length", failed_fields=2), answered("b", finish_reason="stop", repetition=0.1)]
    rows += [answered("c", repetition=0.5), failed("d", "AnswerError", "no", truncated=True, repetition=0.9)]
    figures = report(*rows, records=[older, newer])
    assert (figures.cut_off, figures.truncated, figures.looping, figures.with_failed_fields) == (1, 1, 2, 1)
    assert figures.failed_files == (("2.gz", "cut"),)
    shown = dict(totals_rows(figures))
    assert shown["cut off"] == "1 document with an answer that task.max_new_tokens ended"
    assert shown["part read"] == "1 document: the rest did not fit the context"
    assert shown["looping"] == "2 answers repeating the same words over and over"
    assert shown["failed fields"].startswith("1 document with fields of no usable answer")
    assert shown["not read"] == "2.gz: cut"


def test_spread_of_kept_ratio():
    figures = report(*(answered(str(number), kept_ratio=number / 10) for number in range(11)))
    assert figures.kept_ratio == Spread(mean=pytest.approx(0.5), p10=pytest.approx(0.1), p90=pytest.approx(0.9))


def test_kept_per_layer_is_weighted_by_the_entries_of_each_document():
    # 200 entries uncompressed, 100 a layer; then 2000, 1000 a layer
    figures = report(answered("a"), answered("b", kept_per_layer=[1000, 500], kept_ratio=0.75))
    assert figures.kept_per_layer == pytest.approx((1060 / 1100, 540 / 1100))


def test_policies_that_do_not_sum_attention_up_have_no_share_of_it():
    assert report(answered("a"), answered("b", evicted_attention_mass=None)).evicted_attention_mass.mean == 0.01
    figures = report(answered("a", evicted_attention_mass=None))
    assert figures.evicted_attention_mass is None
    assert "evicted attention" not in dict(totals_rows(figures))


def test_full_cache_keeps_everything_in_every_layer():
    figures = report(answered("a", kept_per_layer=[220, 220], kept_ratio=1.0))
    assert figures.kept_per_layer == (1.0, 1.0)


def test_models_of_different_depth_have_no_common_layers():
    figures = report(answered("a"), answered("b", kept_per_layer=[1, 2, 3]))
    assert figures.kept_per_layer == ()
    assert figures.ok == 2


def test_failures_by_type_and_message():
    rows = [failed(f"d{number}", "DocumentError", f"message {number}") for number in range(5)]
    figures = report(failed("x", "CapacityError", "too long"), *rows, failed("e", "DocumentError", "empty"))
    assert [(group.error_type, group.documents) for group in figures.failures] == [
        ("DocumentError", 6),
        ("CapacityError", 1),
    ]
    assert figures.error_types == 2
    assert figures.failures[0].messages == (Message("message 0", 5, ("d0", "d1", "d2")), Message("empty", 1, ("e",)))
    assert figures.failures[1].messages == (Message("too long", 1, ("x",)),)


def test_slowest_documents_do_not_count_waiting():
    rows = [answered(str(number), prefill_s=float(number), queue_s=100.0 - number) for number in range(8)]
    assert [slow.doc_id for slow in report(*rows).slowest] == ["7", "6", "5", "4", "3"]


def test_rows_without_memory_figures_and_no_answers_at_all():
    bare = dict.fromkeys([*(field.name for field in MEMORY_FIELDS), "prefill_s"]) | {"doc_id": "a", "run_id": "r"}
    figures = report(answered("a") | bare, answered("b"))
    assert (figures.ok, figures.kv_bytes_full) == (2, 1000)
    assert figures.kept_per_layer == pytest.approx((0.6, 0.4))

    figures = report(failed("c", "DocumentError", "no"))
    assert (figures.ok, figures.kv_bytes_full, figures.saved_ratio) == (0, 0, 0.0)
    assert figures.kept_ratio == Spread(0.0, 0.0, 0.0)
    assert figures.slowest == ()


def test_policies_of_the_answers():
    figures = report(answered("a"), answered("b", policy='{"name": "full"}'), answered("c"))
    assert figures.policies == ('{"name": "corm"}', '{"name": "full"}')


def test_what_was_verified_is_stated_by_the_share_it_was_chosen_under():
    alike = {"verified": True, "agreement": 1.0, "logprob_full": -0.5, "logprob_kept": -0.4, "rerun": False}
    otherwise = alike | {"agreement": 0.5, "first_difference": 3, "verify_s": 2.0}
    rows = [answered(f"a{number}", verified=False, verify_share=0.1) for number in range(90)]
    rows += [answered(f"b{number}", **alike, verify_share=0.1) for number in range(10)]
    rows += [
        answered("c", **otherwise, verify_share=1.0),
        answered("d", **otherwise | {"rerun": True}, verify_share=1.0),
    ]
    rows += [answered("before it was verified"), failed("e", "DocumentError", "no", verify_share=1.0)]
    figures = report(*rows)
    assert (figures.audited, figures.verified, figures.differing, figures.rerun) == (102, 12, 2, 1)
    assert figures.differing_at_most == pytest.approx((100 * upper_bound(0, 10) + 2) / 102)
    assert figures.logprob_loss == pytest.approx(0.1)
    shown = dict(totals_rows(figures))
    assert shown["verification"].startswith(
        "verified 12 of 102; 2 would have been answered otherwise; 1 answered again"
    )
    assert shown["verified answers"] == "0.100 nats a token less likely to an uncompressed cache, mean"
    assert "verification 4.0s" in shown["time of replicas"]


def test_a_job_that_verifies_nothing_says_nothing_of_it():
    figures = report(answered("a"), failed("b", "E", "no"))
    assert (figures.verification, figures.differing_at_most, figures.logprob_loss) == ("", None, None)
    assert not {"verification", "verified answers"} & set(dict(totals_rows(figures)))
    assert "verif" not in dict(totals_rows(figures))["time of replicas"]
