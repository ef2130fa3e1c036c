"""quickstart.sh and test.sh, with an environment that only writes down what it is asked to do."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """The scripts in a checkout whose .venv has a python and a corm-batch that log their arguments."""
    shutil.copytree(ROOT / "infra", tmp_path / "infra", ignore=lambda folder, names: {"measure", "training", "deploy"})
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "corm-batch"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/log\n')
        (programs / name).chmod(0o755)
    return tmp_path


def asked(checkout, script, *arguments):
    """What the script had its environment do, once it ended well."""
    log = checkout / "log"
    log.write_text("")
    subprocess.run(["sh", checkout / "infra" / script, *arguments], check=True, capture_output=True, cwd="/")
    return [line for line in log.read_text().splitlines() if "pip --version" not in line]


def test_the_quick_start_installs_once_and_answers(checkout):
    install, compiled, run = asked(checkout, "quickstart.sh")
    assert install.startswith("python -m pip install ")
    assert install.endswith(" --constraint infra/constraints.txt --editable .")
    assert compiled.startswith("python -m compileall ")
    assert run == "corm-batch run jobs/quickstart/job.yaml --expect expected"
    assert asked(checkout, "quickstart.sh", "--json") == [f"{run} --json"]
    (checkout / "infra/constraints.txt").write_text("torch==1\n")
    assert asked(checkout, "quickstart.sh") == [install, compiled, run]


def test_the_tests_are_lint_types_and_tests(checkout):
    install, _, check, style, *others = asked(checkout, "test.sh", "-k", "corm")
    assert install.endswith(" --editable .[test]")
    assert (check, style) == ("python -m ruff check .", "python -m ruff format --check .")
    types, tests = sorted(others)
    assert types == "python -m mypy"
    assert tests.startswith("python -m pytest ")
    assert tests.endswith(" --max-worker-restart 0 -k corm")  # else the loss of a process is waited for for ever
    whole = asked(checkout, "test.sh")
    assert sum(line.startswith("python -m pytest ") and line.endswith(" tests/ops") for line in whole) == 1
    assert {line.split()[2] for line in whole if " -m " in line} == {"ruff", "mypy", "pytest"}


@pytest.mark.parametrize("failing", ["ruff", "mypy", "pytest -n", "tests/ops"])
def test_a_check_that_fails_is_told_by_the_exit_code(checkout, failing):
    python = checkout / ".venv/bin/python"
    python.write_text(python.read_text() + f'case "$*" in *"{failing}"*) exit 1;; esac\n')
    with pytest.raises(subprocess.CalledProcessError):
        asked(checkout, "test.sh")
