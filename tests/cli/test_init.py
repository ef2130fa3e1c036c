"""corm-batch init: what it asks, what it writes, and what it leaves alone."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.spec import JobSpec


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def answer(monkeypatch):
    """What a user types, line after line."""

    def type_in(*lines):
        monkeypatch.setattr("sys.stdin", Terminal("".join(f"{line}\n" for line in lines)))

    return type_in


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with documents, in which the user is."""
    pq.write_table(pa.table({"doc_id": ["a"], "text": ["t"], "body": ["b"]}), tmp_path / "docs.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_answers_make_a_spec_that_loads(corm_batch, folder, answer, model_without_weights):
    answer("docs.parquet", "Who wrote it: a man?", model_without_weights)
    result = corm_batch("init")
    assert result.code == 0
    job = JobSpec.load("job.yaml")
    assert (job.name, job.model.name, job.source.name) == ("job", str(model_without_weights), "parquet")
    assert (job.task.name, job.task.question) == ("question_answer", "Who wrote it: a man?")
    assert (job.source.uri, job.output.uri) == (f"{folder}/docs.parquet", f"{folder}/out/job")
    assert result.out.lstrip().splitlines() == [
        f"job.yaml: documents at {folder}/docs.parquet (source parquet), model {model_without_weights}",
        "  corm-batch plan job.yaml",
        "  corm-batch run job.yaml --limit 3",
        "  corm-batch report out/job",
        "  corm-batch run job.yaml",
    ]
    assert corm_batch("plan", "job.yaml").code == 0


def test_options_ask_nothing_and_an_empty_question_is_a_summary(corm_batch, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (folder / "in").mkdir()
    (folder / "in/a.jsonl").write_text('{"body": "b"}\n')
    options = [
        "--documents",
        "in/",
        "--ask",
        "",
        "--model",
        "org/model",
        "--text-column",
        "body",
        "--output",
        "s3://b/o",
    ]
    result = corm_batch("init", "My papers.yaml", *options)
    assert (result.code, result.err) == (0, "org/model: a hub id; plan and run look at it\n")
    job = JobSpec.load("My papers.yaml")
    assert (job.name, job.source.name, job.source.text_column) == ("My-papers", "jsonl", "body")
    assert (job.task.name, job.output.uri) == ("summarize", "s3://b/o")
    assert "  corm-batch plan 'My papers.yaml'" in result.out.splitlines()


def test_a_column_of_text_that_is_not_there_is_asked_for(corm_batch, folder, answer):
    pq.write_table(pa.table({"body": ["b"]}), folder / "docs.parquet")
    answer("docs.parquet", "", "org/model", "boddy", "body")
    result = corm_batch("init")
    assert result.code == 0
    assert result.err.count("the file has: body (string)") == 2
    assert JobSpec.load("job.yaml").source.text_column == "body"


def test_the_folder_that_the_user_is_in_is_the_default_and_its_output_is_not_read(corm_batch, folder, answer):
    answer("", "", "org/model")
    assert corm_batch("init").code == 0
    assert JobSpec.load("job.yaml").source.uri == f"{folder}/*.parquet"
    (folder / "docs.parquet").rename(folder / "docs.pq")
    pq.write_table(pa.table({"doc_id": ["a"], "text": ["t"]}), folder / "others.parquet")
    result = corm_batch("init", "two.yaml", "--documents", ".", "--ask", "", "--model", "org/model")
    assert "output.uri: the source at" in result.err, "no one glob is of both"
    (folder / "notes.md").write_text("Notes.", encoding="utf-8")
    for name in ("docs.pq", "others.parquet"):
        (folder / name).unlink()
    assert corm_batch("init", "three.yaml", "--documents", ".", "--ask", "", "--model", "org/model").code == 0
    assert JobSpec.load("three.yaml").source.uri == str(folder)


@pytest.mark.parametrize("make", ["file", "link", "folder"])
def test_nothing_is_overwritten(corm_batch, folder, make):
    path = folder / "job.yaml"
    {"file": lambda: path.write_text("mine"), "link": lambda: path.symlink_to("gone"), "folder": path.mkdir}[make]()
    result = corm_batch("init", "--documents", "docs.parquet", "--ask", "", "--model", "org/model")
    assert (result.code, result.out) == (2, "")
    assert "job.yaml: there is such a file, and init overwrites none" in result.err
    assert path.is_dir() if make == "folder" else path.is_symlink() if make == "link" else path.read_text() == "mine"
    assert not (folder / "gone").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"--documents": "none/"}, "--documents none/: no documents there (known are .csv, .csv.gz, .csv.zst, .tsv"),
        ({"--documents": "ftp://x/y"}, "--documents ftp://x/y: expected a local path or an s3:// URI"),
        ({"--documents": "notes.doc"}, "no file whose format its name tells (known are "),
        ({"--text-column": "words"}, "(--text-column names the column that holds the text)"),
        ({"--model": "./nowhere"}, "there is no folder"),
        ({"--model": " "}, "--model: it is empty"),
        ({"--model": None}, "--model: missing, and nobody can be asked"),
        ({"--output": "gs://b/o"}, "output.uri"),
        ({"SPEC": "no/such/job.yaml"}, "no/such/job.yaml: there is no folder no/such"),
        ({"SPEC": "s3://b/job.yaml"}, "s3://b/job.yaml: init writes a file on this machine"),
        ({"SPEC": "-"}, "-: init writes a file on this machine"),
    ],
)
def test_what_cannot_run_is_not_written(corm_batch, folder, monkeypatch, changes, problem):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (folder / "notes.doc").write_text("x")
    options = {"--documents": "docs.parquet", "--ask": "", "--model": "org/model"} | changes
    spec = options.pop("SPEC", "job.yaml")
    given = [word for name, value in options.items() if value is not None for word in (name, value)]
    result = corm_batch("init", spec, *given)
    assert (result.code, result.out) == (2, "")
    assert problem in result.err
    assert sorted(path.name for path in folder.iterdir()) == ["docs.parquet", "notes.doc"]


def test_rows_go_before_documents_beside_them_and_what_is_left_out_is_said(corm_batch, folder):
    (folder / "in").mkdir()
    (folder / "docs.parquet").rename(folder / "in/docs.parquet")
    for name in ("README.md", "LICENSE.txt"):
        (folder / "in" / name).write_text("what stands beside them", encoding="utf-8")
    result = corm_batch("init", "job.yaml", "--documents", "in", "--ask", "Why?", "--model", "org/model")
    assert result.code == 0
    said = "in: source parquet reads 1 of 3 files there, and leaves 2 out: name a glob for others"
    assert result.err.splitlines()[0] == said
    assert JobSpec.load("job.yaml").source.name == "parquet"
