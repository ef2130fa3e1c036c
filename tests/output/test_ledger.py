import shutil
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.verdict import Verdict
from corm_batch.audit.verification import Verification
from corm_batch.data import parts
from corm_batch.data.document import Document
from corm_batch.data.filesystem import write_whole
from corm_batch.data.newest_rows import read_results
from corm_batch.data.schema import result_schema
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import AnswerError, DamagedPartError, SourceError, SpecError
from corm_batch.output.committed import read_committed
from corm_batch.output.ledger import Ledger
from corm_batch.output.settings import SETTINGS, AnswerSettings
from corm_batch.output.transcript import Transcript
from corm_batch.output.writer import PartWriter
from corm_batch.spec import JobSpec, OutputSection
from corm_batch.tasks.base import TaskResult
from tests.output.test_writer import Freehold
from tests.test_spec import MINIMAL


@pytest.fixture
def commit(rows, tmp_path):
    """Commits one part of one run: ok rows, or failed ones where the answer is None."""

    def write(run_id, fingerprint="print-1", part_format="parquet", **answers):
        builder = replace(rows, run_id=run_id, fingerprint=fingerprint)
        writer = PartWriter(OutputSection(uri=str(tmp_path), format=part_format), builder, Freehold())
        for doc_id, answer in answers.items():
            document, memory = Document(doc_id, f"text of {doc_id}"), MemoryStats(kv_bytes_full=len(run_id))
            if answer is None:
                writer.add(builder.failed(document, "DocumentError", "no"))
            else:
                writer.add(builder.answered(document, TaskResult(answer), memory))
        writer.commit()

    return write


@dataclass(frozen=True)
class Told(AnswerSettings):
    """Settings of which nothing but the fingerprint is known: parts that tell no more are held against that."""

    fingerprint: str


def told(fingerprint):
    return Told({}, {}, {}, fingerprint)


def states(output, fingerprint="print-1"):
    ledger = Ledger.read(str(output), told(fingerprint), "job")
    return {name: ledger.state(Document(name, f"text of {name}")) for name in "abc"}


@pytest.fixture
def commit_verified(rows, tmp_path):
    """Commits one part of answers that were held against an uncompressed cache's."""

    def write(**found):
        writer = PartWriter(OutputSection(uri=str(tmp_path)), rows, Freehold())
        for doc_id, verification in found.items():
            row = rows.answered(Document(doc_id, f"text of {doc_id}"), TaskResult("answer"), MemoryStats())
            writer.add(row.verified(verification, MemoryStats()))
        writer.commit()

    return write


def test_what_was_flagged_and_no_more_is_answered_again_where_the_job_reruns(commit_verified, tmp_path):
    differing = Verification.done(1.0, Verdict(4, 3, 2, 1.5, -0.4), -0.1, 1.0, sampled=False)
    names = ["flagged", "rerun", "refused", "failed", "alike", "unchosen"]
    found = [differing, differing.answered_again(), differing.with_error("not answered again: too small")]
    found += [
        Verification.failed(1.0, "no room"),
        Verification.done(1.0, Verdict(4, 4, None, 0, -0.1), 0, 1, sampled=False),
    ]
    commit_verified(**dict(zip(names, [*found, Verification.not_chosen(1.0, sampled=False)], strict=True)))

    def new(verify):
        ledger = Ledger.read(str(tmp_path), told("print-1"), "job", verify)
        return [name for name in names if ledger.state(Document(name, f"text of {name}")) == "new"]

    assert new(None) == new(VerifyConfig(share=1)) == new(VerifyConfig(share=0.5)) == []
    assert new(VerifyConfig(share=1, on_difference="rerun")) == ["flagged"]
    assert new(VerifyConfig(share=1e-9, on_difference="rerun")) == []  # nobody would look at it again


def test_an_answer_that_could_not_be_used_is_not_done_for_a_fallback_until_it_was_tried(rows, tmp_path):
    writer = PartWriter(OutputSection(uri=str(tmp_path)), rows, Freehold())
    a, b, c, d, e = (Document(name, f"text of {name}") for name in "abcde")
    unusable = rows.unusable(a, AnswerError("no number"), MemoryStats(), Transcript(answers=["x"]))
    tried = rows.unusable(b, AnswerError("no number"), MemoryStats(), Transcript(answers=["x"]))
    writer.add(unusable)
    writer.add(tried.or_fallback(None, "not tried", MemoryStats()))
    writer.add(rows.answered(c, TaskResult("answer", failed_fields={"x": "no number"}), MemoryStats()))
    writer.add(rows.answered(d, TaskResult("answer"), MemoryStats()))
    writer.add(rows.failed(e, "DocumentError", "is empty"))
    writer.commit()

    def states(**options):
        ledger = Ledger.read(str(tmp_path), told("print-1"), "job", **options)
        return [ledger.state(document) for document in (a, b, c, d, e)]

    assert states() == ["failed", "failed", "ok", "ok", "failed"]
    assert states(fallback=True) == ["new", "failed", "new", "ok", "failed"]


def test_empty_output(tmp_path):
    assert states(tmp_path) == {"a": "new", "b": "new", "c": "new"}


def test_nothing_is_committed_yet(place):
    with pytest.raises(SourceError, match=r"no job has written there; expected the output\.uri of a job"):
        read_results(f"{place}/elsewhere")
    write_whole(f"{place}/_job/spec.yaml", b"")
    assert read_results(place).num_rows == 0
    assert {"doc_id", "output", "status"} <= set(read_results(f"{place}/").column_names)
    assert {"kv_bytes_full", "kept_ratio"} <= set(read_results(place, memory=True).column_names)


def test_an_output_may_be_written_in_every_way(commit, tmp_path, monkeypatch):
    commit("run-1", a="fine")
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    name = tmp_path.name
    for output in (
        tmp_path,
        f"{tmp_path}//",
        name,
        f"./{name}/",
        f"~/{name}",
        f"file://{tmp_path}",
        f"{name}/../{name}",
    ):
        (row,) = read_results(output, memory=True).to_pylist()
        assert (row["doc_id"], row["output"], row["kv_bytes_full"]) == ("a", "fine", 5)
    with pytest.raises(SpecError, match="s3://"):
        read_results("ftp://elsewhere")


def test_what_is_done(commit, tmp_path):
    commit("run-1", a="fine", b=None)
    assert states(tmp_path) == {"a": "ok", "b": "failed", "c": "new"}
    ledger = Ledger.read(str(tmp_path), told("print-1"), "job")
    assert ledger.state(Document("a", "changed text")) == "new"
    assert ledger.state(Document("a", "text of a", {"question": "?"})) == "new"
    assert states(tmp_path, "print-2")["a"] == "new"


def test_newest_row_counts(commit, tmp_path):
    commit("run-1", a="first", b=None)
    commit("run-2", b="second try", c="new")
    commit("run-3", fingerprint="print-2", a="other prompt")
    assert states(tmp_path) == {"a": "new", "b": "ok", "c": "ok"}
    assert states(tmp_path, "print-2")["a"] == "ok"
    table = read_results(str(tmp_path), memory=True)
    assert {row["doc_id"]: row["output"] for row in table.to_pylist()} == {
        "a": "other prompt",
        "b": "second try",
        "c": "new",
    }
    assert table["kv_bytes_full"].to_pylist() == [5, 5, 5]


def test_memory_part_without_its_results_belongs_to_nobody(commit, tmp_path):
    commit("run-1", a="first")
    commit("run-22", a="second")
    next((tmp_path / "results").glob("part-run-22*")).unlink()
    (row,) = read_results(str(tmp_path), memory=True).to_pylist()
    assert (row["output"], row["kv_bytes_full"]) == ("first", 5)


def test_results_whose_memory_part_is_gone_are_still_read(commit, tmp_path):
    commit("run-1", a="first")
    commit("run-2", b="second")
    next((tmp_path / "memory").glob("part-run-1*")).unlink()
    rows = {row["doc_id"]: row for row in read_results(str(tmp_path), memory=True).to_pylist()}
    assert (rows["a"]["output"], rows["a"]["kv_bytes_full"], rows["b"]["kv_bytes_full"]) == ("first", None, 5)


def test_without_any_memory_part_its_columns_are_null(commit, tmp_path):
    commit("run-1", a="first")
    shutil.rmtree(tmp_path / "memory")
    (row,) = read_results(str(tmp_path), memory=True).to_pylist()
    assert (row["output"], row["kv_bytes_full"], row["kept_ratio"]) == ("first", None, None)


def test_a_table_of_something_else_among_the_parts_is_named(commit, tmp_path):
    commit("run-1", a="first")
    for columns in (
        {"id": ["a"]},
        {"doc_id": [["a"]], "content_sha256": ["a"], "fingerprint": ["f"], "status": ["ok"]},
    ):
        pq.write_table(pa.table(columns), tmp_path / "results" / "part-x.parquet")
        with pytest.raises(SourceError, match=r"part-x\.parquet"):
            Ledger.read(str(tmp_path), told("print-1"), "job")


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "a byte":
        content[len(content) // 8] ^= 0xFF  # inside a page
        path.write_bytes(content)
    else:
        path.write_bytes({"empty": b"", "cut": content[:-100], "garbage": b"not a table"}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "garbage"])
@pytest.mark.parametrize("part_format", ["parquet", "arrow"])
def test_a_damaged_part_is_answered_again_and_never_passed_over_by_readers(commit, tmp_path, how, part_format):
    commit("run-1", part_format=part_format, a="old", b="old")
    commit("run-2", part_format=part_format, b="changed", c="new")
    part = next((tmp_path / "results").glob("part-run-2*"))
    damage(part, how)
    ledger = Ledger.read(str(tmp_path), told("print-1"), "job")
    (line,) = ledger.damaged
    assert line.startswith(f"{part}: damaged: ")
    assert "Delete it: the next run of the job answers its documents again" in line
    assert ledger.state(Document("c", "text of c")) == "new"
    for read in (read_results, read_committed):
        with pytest.raises(DamagedPartError, match=part.name):  # else b would have its old answer
            read(str(tmp_path))
    commit("run-3", part_format=part_format, b="changed", c="new")
    part.unlink()
    found = {row["doc_id"]: row["output"] for row in read_results(str(tmp_path)).to_pylist()}
    assert found == {"a": "old", "b": "changed", "c": "new"}


def test_a_byte_that_changed_on_the_disk_is_found(commit, tmp_path):
    commit("run-1", **{f"d{number}": f"answer {number}" for number in range(300)})
    damage(next((tmp_path / "results").iterdir()), "a byte")
    with pytest.raises(DamagedPartError, match=r"damaged: .*Delete it"):
        read_results(str(tmp_path))


def test_a_damaged_memory_part_costs_figures_alone(commit, tmp_path):
    commit("run-1", a="first")
    part = next((tmp_path / "memory").iterdir())
    damage(part, "cut")
    assert states(tmp_path)["a"] == "ok"
    assert read_results(str(tmp_path))["output"].to_pylist() == ["first"]
    with pytest.raises(DamagedPartError, match=r"memory/part-run-1-000000.parquet: damaged: .* Delete it: nothing but"):
        read_results(str(tmp_path), memory=True)
    part.unlink()
    assert read_results(str(tmp_path), memory=True)["kv_bytes_full"].to_pylist() == [None]


def test_a_part_that_cannot_be_fetched_is_not_damaged(commit, tmp_path, monkeypatch):
    commit("run-1", a="first")

    def refused(uri):
        raise SourceError(f"{uri}: cannot be read: access denied")

    monkeypatch.setattr(parts, "read_whole", refused)
    monkeypatch.setattr(parts, "open_file", refused)
    with pytest.raises(SourceError, match="access denied") as caught:
        Ledger.read(str(tmp_path), told("print-1"), "job")
    assert not isinstance(caught.value, DamagedPartError)


def spec(**sections):
    return JobSpec.from_mapping({**MINIMAL, **sections})


@pytest.fixture
def run(rows, tmp_path):
    """A run of a spec: commits ok rows, or failed ones where the answer is None."""

    def write(run_id, job, **answers):
        now = AnswerSettings.of(job, "abc")
        metadata = {
            "corm_batch.job": job.name,
            "corm_batch.fingerprint": now.fingerprint,
            SETTINGS[0]: now.to_metadata(),
        }
        builder = replace(rows, run_id=run_id, fingerprint=now.fingerprint, result_schema=result_schema((), metadata))
        writer = PartWriter(OutputSection(uri=str(tmp_path)), builder, Freehold())
        for doc_id, answer in answers.items():
            document = Document(doc_id, f"text of {doc_id}")
            good = answer is not None and builder.answered(document, TaskResult(answer), MemoryStats())
            writer.add(good or builder.failed(document, "DocumentError", "no"))
        writer.commit()

    return write


def ledger_of(job, output):
    return Ledger.read(str(output), AnswerSettings.of(job, "abc"), job.name)


def test_rows_under_other_settings_and_of_other_jobs_are_told(run, tmp_path):
    run("run-1", spec(policy={"name": "corm", "window": 64}), a="x", b=None, c="x", d="x")
    run("run-2", spec(policy={"name": "corm", "window": 64}, output={"uri": "elsewhere"}), e="x")
    run("run-3", spec(name="other"), c="y")
    run("run-4", spec(), d="z")
    ledger = ledger_of(spec(), tmp_path)
    edited, other = ledger.earlier()
    assert edited.text == (
        "3 rows (1 failed) here, of the job papers, are under other settings (policy.window 64 -> 128): what the "
        "source has of them is answered again"
    )
    assert other.text == "1 row here is of the job other, under the same settings: it is not answered again"
    assert [ledger.state(Document(name, f"text of {name}")) for name in "abcde"] == ["new", "new", "ok", "ok", "new"]
    assert ledger_of(spec(name="other"), tmp_path).earlier()[-1].job == "papers"


def test_an_output_of_this_job_alone_tells_nothing(run, tmp_path):
    run("run-1", spec(), a="x", b=None)
    run("run-2", spec(cluster={"replicas": 2}, source={"name": "jsonl", "uri": "elsewhere"}), c="x")
    assert ledger_of(spec(), tmp_path).earlier() == ()


def test_parts_put_together_by_somebody_are_told_by_their_own_rows(run, tmp_path):
    run("run-1", spec(), a="x")
    run("run-2", spec(policy={"name": "full"}), b="x")
    files = sorted((tmp_path / "results").iterdir())
    tables = [pq.read_table(file) for file in files]
    together = pa.concat_tables([tables[0], tables[1].replace_schema_metadata(tables[0].schema.metadata)])
    pq.write_table(together, files[0])
    files[1].unlink()
    ledger = ledger_of(spec(), tmp_path)
    assert [ledger.state(Document(name, f"text of {name}")) for name in "ab"] == ["ok", "new"]
    (rows,) = ledger.earlier()
    assert (rows.job, rows.ok, rows.done, rows.changes) == (None, 1, False, ())
    assert rows.text.startswith("1 row here, of a job that no part names, is under other settings (no part")
