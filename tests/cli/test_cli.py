"""The command line as a whole: verbs, exit codes, messages."""

import subprocess
import sys
import time

import pytest

from corm_batch.errors import LeaseError, SpecError


def test_help_is_fast():
    """Best of three: the machine may be busy."""
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        shown = subprocess.run(
            [sys.executable, "-c", "from corm_batch.cli import main; main()", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.monotonic() - started)
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
