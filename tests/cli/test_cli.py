"""The command line as a whole: verbs, exit codes, messages."""

import resource
import subprocess
import sys
from importlib.metadata import version

import pytest

from corm_batch.errors import LeaseError, SpecError
from tests.test_harmless import SECRETS


def test_help_is_fast():
    """In processor time, best of three: the machine may be busy."""
    command = [sys.executable, "-c", "from corm_batch.cli import main; main()", "--help"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
    assert all(f"  {verb} " in shown.stdout for verb in ("run", "plan", "report", "policies"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sing"], "sing"),
        (["run"], "Missing argument"),
        (["plan", "job.yaml", "--fast"], "--fast"),
        (["run", "no-such-file.yaml"], "no-such-file.yaml: cannot read the spec"),
        (["report", "gs://bucket/out"], "gs://bucket/out: expected a local path or an s3:// URI"),
        (["report", "/no/such/output"], "/no/such/output: nothing is committed there"),
    ],
)
def test_wrong_arguments_exit_2_with_one_message(corm_batch, arguments, message):
    result = corm_batch(*arguments)
    assert result.code == 2
    assert message in result.err
    assert result.out == ""


def test_version_is_that_of_the_package(corm_batch):
    assert corm_batch("--version").out == f"corm-batch {version('corm-batch')}\n"


@pytest.mark.parametrize(
    ("words", "found"), [("corm-batch re", ["report"]), ("corm-batch run --retry", ["--retry-failed"])]
)
def test_a_shell_completes_verbs_and_options(corm_batch, monkeypatch, words, found):
    monkeypatch.setenv("_CORM_BATCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert corm_batch().out.split() == found


def test_completion_can_be_shown_and_installed(corm_batch, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert "complete_bash" in corm_batch("--show-completion", "bash").out
    corm_batch("--install-completion", "bash")
    assert [path.name for path in (tmp_path / ".bash_completions").iterdir()] == ["corm-batch.sh"]


def test_verbs_that_need_a_file_refuse_standard_input(corm_batch):
    for arguments in (["schedule", "add", "x", "-", "--cron", "0 2 * * *"], ["calibrate", "-", "--write"]):
        result = corm_batch(*arguments)
        assert (result.code, result.out) == (2, "")
        assert "SPEC: -, the standard input" in result.err


@pytest.mark.parametrize(("error", "code"), [(SpecError("engine: wrong"), 2), (LeaseError("held by process 7"), 1)])
def test_exit_code_says_whose_fault(corm_batch, monkeypatch, error, code):
    def fail(output_uri, **options):
        raise error

    monkeypatch.setattr("corm_batch.output.committed.read_committed", fail)
    result = corm_batch("report", "out")
    assert (result.code, result.err) == (code, f"corm-batch: {error}\n")


def test_interrupt_exits_130(corm_batch, monkeypatch):
    def interrupt(output_uri, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("corm_batch.output.committed.read_committed", interrupt)
    assert corm_batch("report", "out").code == 130


@pytest.mark.parametrize("uri", SECRETS[:8])
@pytest.mark.parametrize(
    "arguments",
    [["run", "{}"], ["report", "{}"], ["report", "x", "--html", "{}"], ["schedule", "list", "--registry", "{}"]],
    ids=lambda arguments: arguments[0] + arguments[-2],
)
def test_credentials_are_refused_wherever_a_place_is_named_and_never_shown(corm_batch, arguments, uri):
    result = corm_batch(*(argument.format(uri) for argument in arguments))
    assert result.code == 2
    assert "CRET" not in result.out + result.err


def test_credentials_in_a_spec_are_not_shown_either(corm_batch, tmp_path):
    spec = tmp_path / "job.yaml"
    spec.write_text(
        "name: x\nsource: {name: parquet, uri: s3://KEY:SE/CRET@bucket}\noutput: {uri: s3://K%3ASECRET%40b}\n"
    )
    for changes in ([], ["--set", "source.uri=s3://KEY:SE/CRET@b"], ["--set", "s3://KEY:SE/CRET@bucket"]):
        result = corm_batch("run", spec, *changes)
        assert result.code == 2
        assert "***" in result.err
        assert "CRET" not in result.out + result.err
    spec.write_text("name: x\nsource: uri: s3://KEY:SE/CRET@bucket: {")
    result = corm_batch("run", spec)
    assert "no valid YAML" in result.err
    assert "CRET" not in result.err


def test_escape_codes_in_names_do_not_reach_the_terminal(corm_batch, write_job, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a\x1b[31m\u202e\x9bx.parquet").write_bytes(b"")
    (folder / "b\nforged line.parquet").write_bytes(b"")
    job = write_job([{"doc_id": "a", "text": "x"}], source={"name": "parquet", "uri": str(folder)})
    for arguments in (["plan", job], ["plan", job, "--json"], ["run", tmp_path / "no\x1b[31m.yaml"]):
        result = corm_batch(*arguments)
        assert not set(result.out + result.err) & set("\x1b\x9b") - {"\n"}
        assert "\nforged" not in result.out
    (folder / "a\x1b[31m\u202e\x9bx.parquet").unlink()
    result = corm_batch("plan", job, "--set", "source.text_column=x")
    assert result.code == 0
