"""What the README shows is true: its spec loads, its policy works, its files exist, its commands are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from corm_batch import NEVER, load_plugin
from corm_batch.cli import app
from corm_batch.policies.base import KVPolicy
from corm_batch.spec import JobSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language):
    return [block for found, block in FENCED if found == language]


def test_the_example_job_loads(tmp_path):
    (spec,) = blocks("yaml")
    path = tmp_path / "job.yaml"
    path.write_text(spec)
    job = JobSpec.load(str(path))
    assert job.task.name == "extract"
    assert job.policy.budget.max_kept == 2048


@pytest.mark.usefixtures("leave_no_plugin")
def test_the_example_policy_does_what_it_says(tmp_path):
    file = tmp_path / "sinks.py"
    file.write_text(next(block for block in blocks("python") if "class Sinks" in block))
    load_plugin(str(file))
    policy = KVPolicy.from_spec({"name": "sinks", "first": 2, "recent": 3})
    expiry = policy.expiry(0, torch.tensor([[1, 2, 3, 10]], dtype=torch.int32))
    assert expiry.tolist() == [[NEVER, NEVER, 6, 13]]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_linked_files_exist(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?:sh|python) (infra/\S+?)[\s`]", README))))
def test_scripts_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"^corm-batch (\w+)", README, re.MULTILINE))))
def test_commands_exist(verb):
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_every_folder_of_the_tree_exists():
    (tree,) = [block for block in blocks("") if "corm_batch/" in block and "pipeline/" in block]
    package = tree.partition("jobs/ ")[0]
    assert {ROOT / "corm_batch" / name for name in re.findall(r"^  (\w+)/", package, re.MULTILINE)} == {
        path for path in (ROOT / "corm_batch").iterdir() if (path / "__init__.py").exists()
    }
