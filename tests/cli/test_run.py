"""corm-batch run: a stand-in for the job where only the showing matters, one real job at the end."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from corm_batch.data.selection import Selection
from corm_batch.errors import LeaseError
from corm_batch.pipeline import driver
from corm_batch.pipeline.intake import FailedFile
from corm_batch.pipeline.progress import Event, JobSummary, Progress

ROWS = [{"doc_id": name, "text": "t", "right": "35564"} for name in "abc"]
MODEL = Path(__file__).parents[2] / "jobs/quickstart/model"


@pytest.fixture
def fake_job(monkeypatch, write_output):
    """A run_job that commits two answers and a failure; the arguments of its calls."""
    calls = []

    def run_job(spec, *, retry_failed, selection, on_event):
        calls.append((spec, retry_failed, selection))
        uri = str(write_output())
        progress = Progress(total=3, ok=2, failed=1, seconds=12.0)
        on_event(Event("start", Progress(total=3)))
        said = "" if selection is None else selection.text
        return JobSummary(**vars(progress), run_id="run-1", output_uri=uri, selection=said)

    monkeypatch.setattr(driver, "run_job", run_job)
    return calls


def test_answers_totals_and_where_they_are(corm_batch, write_job, fake_job, tmp_path):
    result = corm_batch("run", write_job(ROWS), "--expect", "right")
    assert result.code == 3
    assert result.err == "test: 0 of 3 documents, 0 failed, ETA -; no answer yet, 0.0s\n"
    lines = result.out.splitlines()
    drawn = [[cell.strip() for cell in line.split("|")] for line in lines[3:6]]
    assert [(row[0], row[4]) for row in drawn] == [("a", "exact"), ("b", "differs"), ("c", "failed")]
    of_them = "against right: 1 of 3 exact (33.3%), 1 contain it (33.3%), mean F1 0.333, ROUGE-L 0.333"
    assert f"answers                {of_them}" in lines
    missed = lines[lines.index("Missed by exact: 2 of 3") + 3 :][:2]
    assert [line.split("|")[0].strip() for line in missed] == ["b", "c"]
    assert "Run run-1: 2 ok, 1 failed, 0 done before, in 12.0s" in lines
    assert f"  {tmp_path}/out/results  answers and errors" in lines
    assert result.out.isascii()


def test_rows_that_the_source_leaves_out_are_told_with_why(corm_batch, write_job, fake_job, monkeypatch):
    job, why = driver.run_job, (("source.filter does not hold", 2), ("failed", 1))
    monkeypatch.setattr(driver, "run_job", lambda *a, **b: replace(job(*a, **b), left_out=3, why_left_out=why))
    lines = corm_batch("run", write_job(ROWS)).out.splitlines()
    assert "Left out of the source: 3 rows (2: source.filter does not hold; 1: failed)" in lines


def test_options_reach_the_job(corm_batch, write_job, fake_job):
    corm_batch("run", write_job(ROWS), "--retry-failed", "--set", "policy.window=7", "--set", "policy.recent=8")
    ((spec, retry_failed, selection),) = fake_job
    assert retry_failed
    assert selection is None
    assert (spec.policy.window, spec.policy.recent) == (7, 8)


@pytest.mark.parametrize(
    ("options", "selection"),
    [
        (["--limit", "3"], Selection(3)),
        (["--sample", "3"], Selection(3, 0)),
        (["--sample", "3", "--seed", "5"], Selection(3, 5)),
    ],
)
def test_a_run_may_be_limited_and_says_so(corm_batch, write_job, fake_job, options, selection):
    result = corm_batch("run", write_job(ROWS), *options)
    assert fake_job[0][2] == selection
    assert f"Limited to {selection.text}; a run without --limit and --sample goes on." in result.out.splitlines()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--limit", "3", "--sample", "3"], "--limit and --sample: only one of them"),
        (["--seed", "3"], "--seed: it is of the draw of --sample"),
        (["--limit", "3", "--seed", "3"], "--seed: it is of the draw of --sample"),
        (["--limit", "0"], "--limit"),
        (["--metric", "f1"], "--metric: it is of the answers that --expect compares, which is not given"),
    ],
)
def test_limits_that_make_no_sense(corm_batch, write_job, fake_job, options, problem):
    result = corm_batch("run", write_job(ROWS), *options)
    assert (result.code, result.out, fake_job) == (2, "", [])
    assert problem in result.err


def test_gpu_time_and_what_it_costs(corm_batch, write_job, write_output, tmp_path, monkeypatch):
    used = {"gpu_s": 5400.0, "price_per_gpu_hour": 2.0}
    write_output()
    at = {"run_id": "run-1", "output_uri": str(tmp_path / "out")}
    monkeypatch.setattr(driver, "run_job", lambda *args, **options: JobSummary(**at, **used))
    assert "GPU time: 1.5 GPU hours, cost 3.00" in corm_batch("run", write_job(ROWS)).out.splitlines()
    assert json.loads(corm_batch("run", write_job(ROWS), "--json").out.splitlines()[-1])["cost"] == 3.0
    used["price_per_gpu_hour"] = None
    assert "GPU time: 1.5 GPU hours" in corm_batch("run", write_job(ROWS)).out.splitlines()
    used["gpu_s"] = 0.0
    assert "GPU" not in corm_batch("run", write_job(ROWS)).out


def test_totals_alone_for_a_large_job(corm_batch, write_job, fake_job, monkeypatch):
    monkeypatch.setattr("corm_batch.cli.run._SMALL_JOB", 2)
    result = corm_batch("run", write_job(ROWS))
    assert "Documents\n" not in result.out
    assert "Totals\n" in result.out


def test_json_ends_with_the_summary(corm_batch, write_job, fake_job):
    result = corm_batch("run", write_job(ROWS), "--json")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [event["event"] for event in events] == ["start", "summary"]
    assert (events[-1]["ok"], events[-1]["failed"], events[-1]["run_id"]) == (2, 1, "run-1")
    assert (result.code, result.err) == (3, "")


BROKEN = (
    FailedFile("s3://b/x\x1b[31m.parquet", "cannot be read: cut\nhere"),
    FailedFile("/in/b.jsonl", "it holds UTF-16"),
)


def test_each_broken_file_has_one_line(corm_batch, write_job, fake_job, monkeypatch):
    run_job = driver.run_job

    def broken(*args, **options):
        summary = replace(run_job(*args, **options), failed_files=BROKEN, empty_files=("/in/c.jsonl",))
        record = Path(summary.output_uri, "_job/runs/run-1.json")
        record.write_text(
            json.dumps(json.loads(record.read_text()) | {"failed_files": [asdict(file) for file in BROKEN]})
        )
        return summary

    monkeypatch.setattr(driver, "run_job", broken)
    result = corm_batch("run", write_job(ROWS))
    assert result.code == 3
    lines = result.out.splitlines()
    place = lines.index("2 files cannot be read, or not to the end; what can be is")
    assert "\x1b" not in result.out
    assert lines[place + 2 : place + 5] == [
        "  /in/b.jsonl: it holds UTF-16",
        "1 file without documents, passed over",
        "  /in/c.jsonl",
    ]
    assert result.out.count(".parquet: cannot be read: cut here") == 1
    monkeypatch.setattr(driver, "run_job", lambda *args, **options: JobSummary(failed_files=BROKEN))
    summary = json.loads(corm_batch("run", write_job(ROWS), "--json").out)
    assert summary["failed_files"][1] == {"uri": "/in/b.jsonl", "error": "it holds UTF-16"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_source_in_another_encoding_is_named_with_what_to_do_and_starts_nothing(
    encoding, corm_batch, write_job, tmp_path, monkeypatch
):
    monkeypatch.setattr(driver, "connected", None)  # no cluster, no model
    rows = "".join(json.dumps({"doc_id": name, "text": "Ein Wort"}) + "\n" for name in "abc")
    (tmp_path / "docs.jsonl").write_bytes(rows.encode(encoding))
    job = write_job(ROWS, source={"name": "jsonl", "uri": str(tmp_path / "docs.jsonl")})
    for _ in range(2):
        result = corm_batch("run", job)
        lines = result.out.splitlines()
        assert lines[0] == "1 file cannot be read, or not to the end; what can be is"
        assert lines[1].startswith(f"  {tmp_path}/docs.jsonl: it holds UTF-")
        assert "not UTF-8; convert it, for example: iconv -f UTF-" in lines[1]
        assert ": 0 ok, 0 failed, 0 done before, in " in lines[2]
        assert result.code == 3
    (tmp_path / "docs.jsonl").write_bytes(rows.encode(encoding).decode(encoding).encode())
    assert "3 to do" in corm_batch("plan", job).out


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (JobSummary(ok=1), 0),
        (JobSummary(ok=1, failed=1), 3),
        (JobSummary(ok=1, skipped=3), 0),
        (JobSummary(ok=1, skipped=3, skipped_failed=1), 3),
        (JobSummary(ok=1, failed_files=BROKEN), 3),
        (JobSummary(ok=1, empty_files=("/in/c.jsonl",)), 0),
        (JobSummary(interrupted=True, failed_files=BROKEN), 130),
        (JobSummary(ok=1, failed=1, stopped="too many differ"), 4),
        (JobSummary(interrupted=True, stopped="too many differ"), 130),
    ],
)
def test_exit_codes(corm_batch, write_job, tmp_path, monkeypatch, summary, code):
    monkeypatch.setattr(driver, "run_job", lambda *args, **kwargs: replace(summary, output_uri=str(tmp_path / "none")))
    assert corm_batch("run", write_job(ROWS)).code == code


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (
            JobSummary(total=30, ok=2, failed=1, skipped=10, skipped_failed=3),
            "10 done before (7 ok, 3 failed), in 0.0s\n",
        ),
        (
            JobSummary(total=30, ok=2, skipped=10, interrupted=True),
            "interrupted after 0.0s; left for the next run: 18\n",
        ),
        (
            JobSummary(total=30, ok=3, audited=3, verified=2, differing=1, stopped="too many differ"),
            "stopped after 0.0s; left for the next run: 27\n"
            "Verification: verified 2 of 3; 1 would have been answered otherwise; with 95 % confidence at most 97.5 % "
            "of all\nStopped: too many differ\n",
        ),
        (JobSummary(ok=2, interrupted=True), "after 0.0s; left for the next run: how many the source cannot say\n"),
    ],
)
def test_the_last_line_counts_ok_failed_and_what_is_left(corm_batch, write_job, tmp_path, monkeypatch, summary, said):
    monkeypatch.setattr(driver, "run_job", lambda *args, **kwargs: replace(summary, output_uri=str(tmp_path / "none")))
    assert said in corm_batch("run", write_job(ROWS)).out


@pytest.mark.parametrize("table", ["results", "memory"])
def test_a_damaged_part_does_not_fail_a_run_that_answered_everything(
    corm_batch, write_job, fake_job, monkeypatch, table
):
    run_job = driver.run_job

    def damaged(*args, **options):
        summary = run_job(*args, **options)
        (part,) = Path(summary.output_uri, table).iterdir()
        part.write_bytes(part.read_bytes()[:200])
        return replace(summary, failed=0)

    monkeypatch.setattr(driver, "run_job", damaged)
    result = corm_batch("run", write_job(ROWS))
    assert result.code == 0
    assert f"/{table}/part-run-1-000000.parquet: damaged: " in result.err
    assert "Delete it: " in result.err
    assert "Run run-1: 2 ok, 0 failed" in result.out


def test_answers_are_shown_without_any_memory_part(corm_batch, write_job, fake_job, monkeypatch):
    run_job = driver.run_job

    def deleted(*args, **options):
        summary = run_job(*args, **options)
        shutil.rmtree(Path(summary.output_uri, "memory"))
        return summary

    monkeypatch.setattr(driver, "run_job", deleted)
    result = corm_batch("run", write_job(ROWS))
    assert (result.code, "Documents\n" in result.out) == (3, True)


def test_a_job_that_fails_exits_1(corm_batch, write_job, monkeypatch):
    def fail(*args, **kwargs):
        raise LeaseError("this output is held by process 7")

    monkeypatch.setattr(driver, "run_job", fail)
    result = corm_batch("run", write_job(ROWS))
    assert (result.code, result.out, result.err) == (1, "", "corm-batch: this output is held by process 7\n")


def test_wrong_spec_and_wrong_column_exit_2_before_anything_runs(corm_batch, write_job, fake_job):
    assert "policy.windw: unknown key" in corm_batch("run", write_job(ROWS), "--set", "policy.windw=7").err
    result = corm_batch("run", write_job(ROWS), "--expect", "wrong")
    assert result.code == 2
    assert "--expect wrong" in result.err
    assert not fake_job


@pytest.mark.ray
def test_a_real_job_and_its_rerun(corm_batch, write_job, tmp_path):
    """Three short documents, one of them empty, through Ray and the quick start's model."""
    model = shutil.copytree(MODEL, tmp_path / "model")
    rows = [
        {"doc_id": "a", "text": "The pass key is 17. Remember it.\n" * 3},
        {"doc_id": "b", "text": "The pass key is 18. Remember it.\n" * 3},
        {"doc_id": "c", "text": ""},
    ]
    job = write_job(rows, model={"name": str(model), "dtype": "float32", "device": "cpu"})
    result = corm_batch("run", job, "--set", "engine.kv_memory=64MiB")
    assert result.code == 3, result.err
    assert "2 ok, 1 failed, 0 done before" in result.out
    again = corm_batch("run", job, "--set", "engine.kv_memory=64MiB")
    assert again.code == 3
    assert "0 ok, 0 failed, 3 done before (2 ok, 1 failed), in" in again.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load"),
        (lambda folder: (folder / "tokenizer.json").write_text("[" * 5000 + "]" * 5000), "nested too deeply"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "model.document_role: document"),
        (lambda folder: (folder / "generation_config.json").write_text('{"num_beams": 4}'), "num_beams: 4"),
    ],
)
def test_a_wrong_model_is_one_line_and_exit_code_2_before_anything_starts(
    corm_batch, write_job, model_without_weights, tmp_path, change, message
):
    folder = tmp_path / "model"
    shutil.copytree(model_without_weights, folder)
    change(folder)
    model = {"name": str(folder), "dtype": "float32", "document_role": "document"}
    result = corm_batch("run", write_job(ROWS, model=model))
    assert result.code == 2
    assert result.err.startswith("corm-batch: ")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
