import errno
import gzip
import json
import os
import shutil
import zlib
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from pyarrow import csv

from corm_batch.data.filesystem import read_whole
from corm_batch.data.newest_rows import read_results
from corm_batch.data.parts import list_parts, read_part
from corm_batch.data.selection import Selection
from corm_batch.errors import LeaseError, ModelLoadError, OutputError, SourceError, SpecError
from corm_batch.output import clock, lease
from corm_batch.output.lease import Lease
from corm_batch.pipeline import driver
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.model import CheckedModel
from corm_batch.report.job_report import read_report
from corm_batch.spec import JobSpec
from corm_batch.storage.model import Model
from tests.conftest import REFERENCE_MODEL, write_documents
from tests.document_files import pdf
from tests.fakes import scripted

KEPT = Path(__file__).parents[1] / "output" / "data"  # outputs that were written before parts told their settings
GOOD = {f"d{index}": f"Good document {index}. " * (index + 1) for index in range(6)}


def rows_of(output):
    table = read_results(str(output), memory=True).to_pylist()
    return {row["doc_id"]: row for row in table}


@pytest.mark.ray
def test_hostile_documents_get_rows_and_reruns_do_only_what_is_left(job, ray_cluster, tmp_path, request):
    documents = [
        *GOOD.items(),
        ("null", None),
        ("empty", ""),
        ("special", "<|end|><|document|>" * 5),
        ("control", "\x00\x01 \ufeff\u202e text"),
        ("huge", "A sentence of the one megabyte text. " * 27_000),
        ("refused", "@error"),
        ("d0", "the same id again"),
    ]
    events = []
    spec = job(documents, task={"max_new_tokens": 4})
    first = run_job(spec, load_model=scripted(max_model_len=8192), on_event=events.append)
    found = rows_of(tmp_path / "out")
    failed = {name for name, row in found.items() if row["status"] == "failed"}
    assert failed == {"null", "empty", "refused", f"{tmp_path}/documents.parquet#0:12"}
    assert (first.documents, first.ok, first.failed, first.skipped, first.total) == (13, 9, 4, 0, 13)
    assert found["huge"]["pieces"] > 25
    assert found["d0"]["output"].startswith("Good document")
    assert (first.kept_ratio, first.interrupted) == (pytest.approx(0.25), False)
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds.count("document"), kinds[-1]) == ("start", 13, "commit")
    waited_for = [event.message for event in events if event.kind == "stage"]
    assert waited_for[:2] == ["starting Ray on this machine", "starting a replica"]
    assert waited_for[-1] == "reading the first documents (prefill)"
    first_answer = next(index for index, event in enumerate(events) if event.kind == "document" and event.row.ok)
    assert not any(event.stage for event in events[first_answer:])

    request.getfixturevalue("without_a_cluster")
    write_documents(tmp_path / "documents.parquet", [("d0", "Changed text."), *documents[1:-1], ("new", "A new one.")])
    second = run_job(spec, load_model=scripted())
    assert (second.ok, second.failed, second.skipped) == (2, 0, 11)
    assert rows_of(tmp_path / "out")["d0"]["output"].startswith("Changed text")

    third = run_job(spec, load_model=scripted(), retry_failed=True)
    assert (third.ok, third.failed, third.skipped) == (0, 3, 10)


def test_a_job_whose_answers_differ_too_often_is_ended_with_what_was_finished(job, without_a_cluster, tmp_path):
    documents = {f"d{number:02}": "A document @lossy of some length." for number in range(60)}
    verify = {"share": 1, "min_gap": 0.1, "stop_above": "20%"}
    summary = run_job(job(documents, task={"max_new_tokens": 4}, verify=verify), load_model=scripted())
    assert summary.stopped == (
        "23 of 60 documents to verify would have been answered otherwise, with 95 % confidence more than 20 % of all; "
        "verify.stop_above is 20 %"
    )
    assert (summary.differing, summary.ok, summary.left) == (23, 23, 37)
    found = rows_of(tmp_path / "out")
    assert len(found) == 23
    assert all(row["first_difference"] == 1 for row in found.values())
    (record,) = (tmp_path / "out/_job/runs").glob("*.json")
    assert json.loads(record.read_text())["verification"] == summary.verification != ""


def test_what_was_flagged_is_answered_again_once_the_job_reruns(job, without_a_cluster, tmp_path):
    documents = {"a": "A document @lossy to read.", "b": "A document to read.", "c": "Another @lossy one."}

    def run(**verify):
        summary = run_job(job(documents, task={"max_new_tokens": 4}, verify=verify), load_model=scripted())
        return summary.ok, summary.skipped, summary.differing, summary.rerun

    assert run(share=1, min_gap=0.1) == (3, 0, 2, 0)
    assert run(share=0.5, min_gap=0.1) == run(share=0) == (0, 3, 0, 0)
    assert run(share=1, min_gap=0.1, on_difference="rerun") == (2, 1, 2, 2)
    assert run(share=1, min_gap=0.1, on_difference="rerun") == run(share=1) == (0, 3, 0, 0)
    assert rows_of(tmp_path / "out")["a"]["output"] == "A document @l"


def test_nothing_to_do_starts_no_cluster(job, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("a cluster was started"))
    summary = run_job(job({"a": None, "b": "  "}), load_model=scripted())
    assert (summary.ok, summary.failed) == (0, 2)
    again = run_job(job({"a": None, "b": "  "}), load_model=scripted())
    assert (again.skipped, again.skipped_ok, again.skipped_failed, again.left) == (2, 0, 2, 0)


def test_a_limited_run_is_taken_up_by_the_next_one_and_recorded(job, tmp_path):
    spec, events = job(dict.fromkeys("abcde")), []
    first = run_job(spec, load_model=scripted(), selection=Selection(2), on_event=events.append)
    assert (first.failed, first.total, first.left, first.selection) == (2, 2, 0, "the first 2 documents of the source")
    (start,) = (event for event in events if event.kind == "start")
    assert start.message == f"model {REFERENCE_MODEL}, reads {tmp_path}/documents.parquet, writes {tmp_path}/out"
    assert set(rows_of(tmp_path / "out")) == {"a", "b"}
    assert read_report(str(tmp_path / "out")).selection == first.selection

    again = run_job(spec, load_model=scripted(), selection=Selection(3))
    assert (again.failed, again.skipped) == (1, 2)
    whole = run_job(spec, load_model=scripted())
    assert (whole.failed, whole.skipped, whole.total, whole.selection) == (2, 3, 5, "")
    assert set(rows_of(tmp_path / "out")) == set("abcde")
    assert read_report(str(tmp_path / "out")).selection == ""


def test_replicas_end_before_all_rows_are_written_to_one_file(job, without_a_cluster, monkeypatch):
    """GPUs cost while they are held."""
    done = []
    monkeypatch.setattr(driver.ActorPool, "close", lambda pool: done.append("replicas"))
    monkeypatch.setattr(driver, "gather_rows", lambda *_: done.append("file"))
    run_job(job({"a": "One."}, output={"format": "csv"}), load_model=scripted())
    assert done[:2] == ["replicas", "file"]


@pytest.mark.usefixtures("without_a_cluster")
def test_gpu_time_and_cost_are_in_summary_and_record(job, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "Placement", SimpleNamespace(of=lambda spec: SimpleNamespace(replicas=1, gpus=2)))
    spec = job({"a": "One.", "b": "Two."}, cluster={"price_per_gpu_hour": 3600.0})
    summary = run_job(spec, load_model=scripted())
    assert 0 < summary.gpu_s <= 2 * summary.seconds
    assert summary.cost == pytest.approx(summary.gpu_s)
    record = json.loads((tmp_path / f"out/_job/runs/{summary.run_id}.json").read_text())
    assert (record["gpu_s"], record["cost"]) == (summary.gpu_s, summary.cost)
    assert read_report(str(tmp_path / "out")).pace.cost == pytest.approx(summary.cost)


def test_an_edited_spec_and_a_damaged_part_are_told_before_any_work(job, tmp_path, monkeypatch):
    documents = {"a": None, "b": " "}
    run_job(job(documents), load_model=scripted())
    events = []
    summary = run_job(
        job(documents, policy={"name": "corm", "window": 9}), load_model=scripted(), on_event=events.append
    )
    assert summary.failed == 2
    assert [event.kind for event in events[:2]] == ["notice", "start"]
    assert "2 rows (2 failed) here, of the job job, are under other settings" in events[0].message
    assert 'policy.name "full" -> "corm"' in events[0].message
    assert events[0].details["changes"] == ({"path": "policy.name", "before": '"full"', "now": '"corm"'},)

    newest = Path(max(list_parts(f"{tmp_path}/out/results")))
    newest.write_bytes(newest.read_bytes()[:-50])
    events.clear()
    again = run_job(job(documents, policy={"name": "corm", "window": 9}), load_model=scripted(), on_event=events.append)
    assert (again.failed, again.skipped) == (2, 0)
    assert [event.kind for event in events[:3]] == ["notice", "notice", "start"]
    assert f"{newest}: damaged: " in events[0].message
    newest.unlink()
    assert set(rows_of(tmp_path / "out")) == {"a", "b"}


@pytest.mark.parametrize("name", sorted(path.stem for path in KEPT.glob("*.yaml")))
def test_an_output_of_an_earlier_version_is_not_answered_again(name, tmp_path, monkeypatch):
    shutil.copytree(KEPT / name, tmp_path / "out")
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = JobSpec.load(str(KEPT / f"{name}.yaml"), [f"source.uri={KEPT}/documents.parquet", "output.uri=out"])
    (part,) = list_parts(str(tmp_path / "out/results"))
    model_hash = read_part(part).schema.metadata[b"corm_batch.model_hash"].decode()
    monkeypatch.setattr(driver, "revision_hash", lambda model: model_hash)
    monkeypatch.setattr(driver, "check_model", lambda spec: CheckedModel([], 1, Model()))  # its folder is gone
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("a cluster was started"))
    summary = run_job(spec)
    assert (summary.documents, summary.skipped_ok, summary.skipped_failed) == (0, 2, 1)


def test_a_clock_that_is_behind_leaves_the_newest_answer_the_newest(job, tmp_path, monkeypatch):
    here = clock.now()
    for hours, tokens in ((1, 7), (0, 8), (-1, 9)):
        monkeypatch.setattr(clock, "now", lambda hours=hours: here + timedelta(hours=hours))
        edited = job({"a": None}, task={"max_new_tokens": tokens})
        summary = run_job(edited, load_model=scripted())
        assert summary.failed == 1
        assert rows_of(tmp_path / "out")["a"]["run_id"] == summary.run_id
        assert run_job(edited, load_model=scripted()).skipped == 1


@pytest.mark.parametrize(
    ("place", "part_format"),
    [("local", "parquet"), pytest.param("s3", "arrow", marks=pytest.mark.s3)],
    indirect=["place"],
)
def test_output_tree(job, without_a_cluster, place, part_format):
    spec = job(GOOD, output={"uri": f"{place}/out", "format": part_format})
    summary = run_job(spec, load_model=scripted())
    assert summary.ok == len(rows_of(f"{place}/out")) == 6
    (part,) = list_parts(f"{place}/out/results")
    assert part.endswith(f"part-{summary.run_id}-000000.{part_format}")
    schema = read_part(part).schema
    assert schema.field("decode_s").metadata[b"unit"] == b"seconds"
    assert json.loads(schema.metadata[b"corm_batch.versions"])["ray"] == ray.__version__
    assert JobSpec.load(f"{place}/out/_job/spec.yaml") == spec.storing(Model())
    record = json.loads(read_whole(f"{place}/out/_job/runs/{summary.run_id}.json"))
    assert (record["ok"], record["interrupted"]) == (6, False)
    assert record["started_at"] < record["ended_at"]
    with Lease(f"{place}/out"):
        pass


def test_a_real_model_answers_and_its_memory_is_told(job, without_a_cluster, tmp_path):
    facts = {f"d{index}": f"The pass key is {index}{index}{index}. Remember it. " * 60 for index in range(3)}
    task = {"name": "question_answer", "question": "What is the pass key?", "max_new_tokens": 12}
    policy = {"name": "corm", "window": 16, "recent": 16, "reach": 6}
    summary = run_job(job(facts, task=task, policy=policy))
    assert (summary.ok, summary.failed) == (3, 0)
    found = rows_of(tmp_path / "out")
    assert [found[f"d{index}"]["output"][:3] for index in range(3)] == [str(index) * 3 for index in range(3)]
    assert 0 < summary.kept_ratio < 1
    assert all(len(row["kept_per_layer"]) == 10 and row["prefill_s"] > 0 for row in found.values())


def test_full_disk_ends_the_job_and_a_rerun_completes_it(job, without_a_cluster, tmp_path):
    spec = job(GOOD, output={"part_documents": 2})
    replace, commits = os.replace, []

    def fills_up(source, target):
        if Path(target).parent.name == "results":
            commits.append(target)
            if len(commits) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", fills_up)
        with pytest.raises(OutputError, match="no space left"):
            run_job(spec, load_model=scripted(step_s=0.02))
    before = rows_of(tmp_path / "out")
    assert 0 < len(before) < 6
    summary = run_job(spec, load_model=scripted())
    assert (summary.ok, summary.skipped) == (6 - len(before), len(before))
    assert set(rows_of(tmp_path / "out")) == set(GOOD)


def documents_in_files(folder):
    """Two thirds good files, one third broken, each in another way; the ids of the documents that can be read."""
    line = '{{"doc_id": "{0}", "text": "Document {0} is about the number {0}."}}'
    name_of = "bcdefghijkl"

    def lines(name):
        return "".join(line.format(f"{name}{number}") + "\n" for number in range(20)).encode()

    packed = gzip.compress(b"".join(lines(name) for name in name_of))
    folder.mkdir()
    contents = {f"good{name}.jsonl": lines(f"good{name}") for name in name_of * 2} | {
        "bom.jsonl": b"\xef\xbb\xbf" + lines("bom"),
        "crlf.jsonl": lines("crlf").replace(b"\n", b"\r\n"),
        "nothing.jsonl": b"",
        "cut.jsonl.gz": packed[: len(packed) // 2],
        "no_bytes.jsonl.gz": b"",
        "garbage.jsonl": b"\x00\x01\xfe\n" * 50,
        "utf16.jsonl": lines("utf16").decode().encode("utf-16"),
        "indented.jsonl": json.dumps(json.loads(line.format("x")), indent=2).encode(),
        "no_text.jsonl": b'{"doc_id": "x", "title": "y"}\n',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.jsonl").symlink_to(folder / "nowhere.jsonl")
    plain = zlib.decompressobj(wbits=31).decompress(packed[: len(packed) // 2])
    ids = [json.loads(line)["doc_id"] for line in plain.split(b"\n")[:-1]]
    good = [f"{name}{number}" for name in ("bom", "crlf", *(f"good{name}" for name in name_of)) for number in range(20)]
    return {*ids, *good}


BROKEN = ["cut.jsonl.gz", "dangling.jsonl", "garbage.jsonl", "indented.jsonl", "no_bytes.jsonl.gz", "no_text.jsonl"]


def test_a_third_of_the_files_is_broken_and_every_readable_document_is_answered(job, without_a_cluster, tmp_path):
    readable = documents_in_files(tmp_path / "in")
    spec = job({}, source={"name": "jsonl", "uri": str(tmp_path / "in")})
    first = run_job(spec, load_model=scripted())
    assert (first.ok, first.failed) == (len(readable), 0)
    assert set(rows_of(tmp_path / "out")) == readable
    assert [file.uri for file in first.failed_files] == [f"{tmp_path}/in/{name}" for name in [*BROKEN, "utf16.jsonl"]]
    assert first.empty_files == (f"{tmp_path}/in/nothing.jsonl",)
    second = run_job(spec, load_model=scripted())
    assert (second.ok, second.failed, second.skipped) == (0, 0, len(readable))
    assert second.failed_files == first.failed_files
    record = json.loads(read_whole(f"{tmp_path}/out/_job/runs/{second.run_id}.json"))
    assert record["failed_files"][0].keys() == {"uri", "error"}
    assert [file["uri"] for file in record["failed_files"]] == [file.uri for file in first.failed_files]


def test_a_failed_row_goes_away_once_its_line_is_complete(job, tmp_path, monkeypatch):
    """All of it with rows that can only fail, for which no cluster is needed."""
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("a cluster was started"))
    spec = job({}, source={"name": "jsonl", "uri": str(tmp_path / "in.jsonl")})
    place = f"{tmp_path}/in.jsonl"

    def states(*lines):
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
        summary = run_job(spec, load_model=scripted())
        return summary, {name: row["error_message"] for name, row in rows_of(tmp_path / "out").items()}

    first, found = states('{"doc_id": "a", "text": ""}', '{"doc_id": null, "text": "x"}', '{"doc_id": "b", "te')
    assert (first.failed, set(found)) == (3, {"a", f"{place}#1", f"{place}#2"})
    second, found = states(
        '{"doc_id": "a", "text": ""}', '{"doc_id": null, "text": "x"}', '{"doc_id": "b", "text": ""}'
    )
    assert (second.failed, second.skipped_failed, set(found)) == (1, 2, {"a", "b", f"{place}#1"})
    third, found = states('{"doc_id": "a", "text": ""}', '{"doc_id": "c", "text": ""}', '{"doc_id": "b", "text": ""}')
    assert (third.failed, set(found)) == (1, {"a", "b", "c"})
    fourth, found = states('{"doc_id": "a", "text": ""}', "", "half", '{"doc_id": "c", "text": ""}')
    assert (fourth.failed, fourth.skipped, set(found)) == (1, 2, {"a", "b", "c", f"{place}#1"})
    fifth, found = states('{"doc_id": "a", "text": ""}', "half", '{"doc_id": "c", "text": ""}')
    assert (fifth.failed, fifth.skipped, fifth.documents) == (0, 3, 0)


def test_nothing_but_broken_files_is_a_run_of_its_own(job, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("a cluster was started"))
    spec = job({})
    (tmp_path / "documents.parquet").write_bytes(b"")
    summary = run_job(spec, load_model=scripted())
    assert (summary.documents, summary.total) == (0, 0)
    assert [(file.uri, "0 bytes" in file.error) for file in summary.failed_files] == [(spec.source.uri, True)]


def test_two_drivers_cannot_share_an_output(job, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    with Lease(str(tmp_path / "out")), pytest.raises(LeaseError, match=r"held by process .* It lives"):
        run_job(job(GOOD), load_model=scripted())


def test_output_of_a_driver_that_died_elsewhere_is_waited_for(job, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_S", 1.5)
    place = tmp_path / "out/_job/lease.json"
    Lease(str(tmp_path / "out")).__enter__()
    place.write_text(json.dumps({**json.loads(place.read_text()), "machine": "elsewhere"}))
    assert run_job(job({"a": None}), load_model=scripted()).failed == 1


def test_stolen_lease_ends_the_run_at_once(job, without_a_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    documents = {f"d{index}": f"Document {index} is about the number {index}." for index in range(60)}
    place = tmp_path / "out/_job/lease.json"
    answered = []

    def steal(event):
        if event.kind == "document":
            answered.append(event.row)
        if answered:  # again and again: one that renews may have looked right before, and write right after
            place.write_text(json.dumps({**json.loads(place.read_text()), "token": "of another"}))

    spec = job(documents)
    with pytest.raises(LeaseError, match="the lease was lost to process"):
        run_job(spec, load_model=scripted(step_s=0.02), on_event=steal)
    assert 1 <= len(answered) < 30
    assert list_parts(f"{spec.output.uri}/results") == []
    assert json.loads(place.read_text())["token"] == "of another"


def test_what_is_wrong_before_the_start_leaves_no_output(job, tmp_path):
    with pytest.raises(SourceError, match="nothing-here"):
        run_job(job(GOOD, source={"uri": str(tmp_path / "nothing-here")}))
    with pytest.raises(ModelLoadError, match=r"model\.name"):
        run_job(job(GOOD, model={"name": str(tmp_path)}))
    assert not (tmp_path / "out").exists()


def test_model_that_cannot_load_gives_its_reason_and_the_lease_back(job, without_a_cluster, tmp_path):
    spec = job(GOOD)
    with pytest.raises(ModelLoadError, match="no weights"):
        run_job(spec, load_model=scripted(failure=ModelLoadError("no weights")))
    with Lease(str(tmp_path / "out")):
        pass


def test_columns_of_the_source_and_the_place_of_a_row_are_in_every_row(job, without_a_cluster, tmp_path):
    def write(number, rows):
        table = pa.Table.from_pylist([{"doc_id": name, "text": text, "meta": meta} for name, text, meta in rows])
        pq.write_table(table, tmp_path / f"in/{number}.parquet", row_group_size=2)

    def meta(number):
        return {"url": f"http://x/{number}", "tags": ["a", None]}

    (tmp_path / "in").mkdir()
    write(1, [("a", "A document.", meta(1)), ("b", None, meta(2)), ("c", "@error", meta(3))])
    write(2, [("d", "Another.", None), ("a", "the same id", meta(5))])
    questions = {"name": "question_answer", "questions": ["Who?", "When?"], "rows": "question"}
    source, columns = {"uri": str(tmp_path / "in")}, ["meta", "meta.url"]
    spec = job({}, source=source, task=questions, output={"columns": columns})
    summary = run_job(spec, load_model=scripted())
    assert (summary.ok, summary.failed) == (2, 3)
    found = read_results(str(tmp_path / "out"))
    assert found.schema.field("meta").type == pa.struct([("url", pa.string()), ("tags", pa.list_(pa.string()))])
    place = [("_source_file", "ascending"), ("_source_row", "ascending"), ("question_number", "ascending")]
    rows = [
        (Path(row["_source_file"]).name, row["_source_row"], row["question_number"], row["meta.url"], row["meta"])
        for row in found.sort_by(place).to_pylist()
    ]
    assert rows == [
        *(("1.parquet", 0, number, "http://x/1", meta(1)) for number in (0, 1)),
        ("1.parquet", 1, None, "http://x/2", meta(2)),
        ("1.parquet", 2, None, "http://x/3", meta(3)),
        *(("2.parquet", 0, number, None, None) for number in (0, 1)),
        ("2.parquet", 1, None, "http://x/5", meta(5)),
    ]

    write(3, [("e", "One more.", meta(6))])
    events = []
    other = job({}, source=source, task=questions, output={"columns": ["meta", "text"]})
    assert run_job(other, load_model=scripted(), on_event=events.append).ok == 1
    told = [event.message for event in events if event.kind == "notice"]
    assert told == ["5 documents answered before: meta, text (output.columns) filled in as the source has it now"]
    found = {(row["doc_id"], row["question_number"]): row for row in read_results(str(tmp_path / "out")).to_pylist()}
    assert (found["e", 1]["text"], found["e", 1]["meta.url"]) == ("One more.", None)
    assert [found["a", number]["text"] for number in (0, 1)] == ["A document.", "A document."]
    assert (found["a", 0]["meta.url"], found["a", 0]["run_id"]) == ("http://x/1", summary.run_id)

    write(2, [("d", "Another.", meta(7)), ("a", "the same id", meta(5))])
    unlike = run_job(other, load_model=scripted(), on_event=events.append, selection=Selection(4))
    assert (unlike.documents, unlike.skipped, events[-1].message) == (
        *(0, 4),
        "1 document answered before: meta, text (output.columns) filled in as the source has it now",
    )
    metas = [row["meta"] for row in read_results(str(tmp_path / "out")).to_pylist() if row["doc_id"] == "d"]
    assert metas == [meta(7), meta(7)]
    assert run_job(other, load_model=scripted(), on_event=events.append).skipped == 6
    assert events[-1].kind != "notice"
    with pytest.raises(SpecError, match="one column 'link' is wanted; the file has: doc_id"):
        run_job(job({}, source=source, output={"columns": ["link"]}), load_model=scripted())


def test_a_folder_of_people_s_files_is_summed_up_and_pages_are_cited(job, without_a_cluster, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.pdf").write_bytes(pdf(f"Report {number}.", "It ends here."))
    (folder / "notes.md").write_text("# Notes\n\nIn Markdown.")
    (folder / "page.html").write_text("<title>Page</title><style>p {}</style><p>In <b>HTML</b>.</p>")
    source, task = {"name": "documents", "uri": str(folder)}, {"max_new_tokens": 40}
    spec = job({}, source=source, task=task, output={"columns": ["pages"]})
    assert run_job(spec, load_model=scripted()).ok == 22
    rows = {row["doc_id"]: row for row in read_results(str(tmp_path / "out")).to_pylist()}
    assert {name: row["pages"] for name, row in rows.items() if not name.endswith(".pdf")} == {
        "notes.md": None,
        "page.html": None,
    }
    assert rows["07.pdf"]["pages"] == 2
    assert rows["07.pdf"]["output"].startswith("[page 1]\nReport 7.\n\n[page 2]\nIt ends here.")
    assert rows["page.html"]["output"].startswith("In **HTML**.")


def test_all_rows_are_in_one_file_at_the_end_of_a_run(job, without_a_cluster, tmp_path):
    target, events = tmp_path / "out/results.csv", []

    def ids():
        return csv.read_csv(target)["doc_id"].to_pylist()

    def run(documents, content=None):
        spec = job(documents, output={"format": "csv"})
        if content is not None:
            (tmp_path / "documents.parquet").write_bytes(content)
        run_job(spec, load_model=scripted(), on_event=events.append)

    run({}, b"no Parquet")
    assert not target.exists()
    run({"b": "One.", "a": None})
    assert ids() == ["b", "a"]
    assert [event.message for event in events if event.kind == "notice"] == [f"{target} holds 2 rows"]
    assert all(part.endswith(".parquet") for part in list_parts(f"{tmp_path}/out/results"))
    written = target.stat().st_mtime_ns
    run({"b": "One.", "a": None})
    assert target.stat().st_mtime_ns == written
    run({"c": "A new one, which is longer.", "b": "Another text."})
    assert ids() == ["c", "a", "b"]  # what was at their rows before has its row still
    target.unlink()
    run({"c": "A new one, which is longer."})
    assert ids() == ["c", "a", "b"]  # what was at their rows before has its row still


def test_a_step_reads_what_another_answered_and_only_groups_that_changed_are_answered_anew(
    job, without_a_cluster, tmp_path
):
    def answer(**texts):
        topics = {"a": "x", "b": "y", "bad": "x", "c": "x", "none": None, "old": "y"}
        rows = [{"doc_id": name, "text": text, "topic": topics[name]} for name, text in texts.items()]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents.parquet")
        load = scripted()
        return run_job(first, load_model=load), run_job(second, load_model=load)

    first = job({"a": "t"}, task={"max_new_tokens": 64}, output={"columns": ["topic"]})
    sections = {
        "source": {
            "name": "results", "uri": first.output.uri, "filter": "doc_id != 'old'", "group_by": "topic",
            "text_separator": " / ",
        },
        "output": {"uri": str(tmp_path / "topics"), "columns": ["members", "member_ids", "topic"]},
    }  # fmt: skip
    second = JobSpec.from_mapping({**first.model_dump(mode="json"), **sections})
    texts = {"a": "Alpha.", "b": "Beta.", "bad": "@error", "c": "Gamma.", "none": "No topic.", "old": "Old."}
    one, two = answer(**texts)
    assert (one.ok, one.failed) == (5, 1)
    assert (two.ok, two.failed, two.left_out, two.total) == (2, 1, 2, None)
    assert {why: count for why, count in two.why_left_out} == {
        "failed in the job that this one reads": 1,
        "source.filter does not hold": 1,
    }
    found = rows_of(tmp_path / "topics")
    x, y = found["x"], found["y"]
    assert x["output"].startswith("Alpha. ")  # what is scripted says the text again, and what was asked
    assert " / Gamma. " in x["output"]
    assert (x["members"], x["member_ids"], x["topic"]) == (2, ["a", "c"], "x")
    assert (y["member_ids"], y["_source_file"], y["_source_row"]) == (["b"], f"{tmp_path}/documents.parquet", 1)
    (lost,) = [row for row in found.values() if row["status"] == "failed"]
    assert "the row 'none' is in no group: its column 'topic' (source.group_by) holds no" in lost["error_message"]
    one, two = answer(**texts | {"b": "Better.", "none": "None still."})
    assert (one.ok, one.skipped) == (2, 4)
    assert (two.ok, two.skipped_ok) == (1, 1)
    assert rows_of(tmp_path / "topics")["y"]["output"].startswith("Better. ")


def test_answers_that_could_not_be_used_are_tried_once_with_a_fallback_that_came_later(job, without_a_cluster):
    task = {"name": "extract", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}}, "retries": 0}
    spec = job(GOOD, task={**task, "constrained": False, "max_new_tokens": 4})
    assert run_job(spec, load_model=scripted()).failed == len(GOOD)
    later = spec.model_copy(update={"fallback": "full"})
    counts = [run_job(later, load_model=scripted()) for _ in range(2)]
    assert [(one.failed, one.skipped_failed) for one in counts] == [(6, 0), (0, 6)]
    assert {row["fallback"] for row in rows_of(spec.output.uri).values()} == {False}
