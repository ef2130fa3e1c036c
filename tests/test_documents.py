"""What the folders' documents name is there: links, files, modules, and a document in every folder that needs one."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from corm_batch import KVPolicy, load_plugin

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for folder in ("corm_batch", "infra", "jobs") for path in (ROOT / folder).rglob("*.md") if path.is_file()
)
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
# what a document names in backticks and means by it: a file beside it, or from the root or the package
FILE = re.compile(
    r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|sh|yaml|txt|toml|json|parquet)|(?:corm_batch|infra|tests|jobs)/[\w./]*)`"
)
MADE = {"job.yaml", "config.json", "evaluation.json"}
"""Names of files that somebody else makes."""


def parametrized(pattern):
    return pytest.mark.parametrize(
        ("document", "named"),
        [(name, found) for name, text in TEXTS.items() for found in sorted(set(re.findall(pattern, text)))],
    )


@pytest.mark.parametrize(
    "folder", ["corm_batch/engine", "corm_batch/ops", "corm_batch/pipeline", "corm_batch/policies", "infra"]
)
def test_folders_that_need_one_have_a_document(folder):
    assert f"{folder}/README.md" in TEXTS


@parametrized(r"\]\(([^)#:\s]+)\)")
def test_links_lead_somewhere(document, named):
    assert ((ROOT / document).parent / named).exists()


@parametrized(FILE)
def test_files_named_are_there(document, named):
    places = [(ROOT / document).parent, ROOT, ROOT / "corm_batch", ROOT / "infra", ROOT / document.split("/")[0]]
    assert named in MADE or any((place / named).exists() for place in places)


@parametrized(r"python -m ((?:infra|tests|corm_batch)[\w.]*)")
def test_commands_are_there(document, named):
    assert find_spec(named) is not None


def test_the_example_of_a_policy_is_one(tmp_path):
    text = TEXTS["corm_batch/policies/README.md"]
    code, job = (re.search(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)[1] for kind in ("python", "yaml"))
    (tmp_path / "long_keys.py").write_text(code)
    try:
        load_plugin(str(tmp_path / "long_keys.py"))
        policy = KVPolicy.from_spec(yaml.safe_load(job)["policy"])
        key = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
        assert policy.born(0, key, key, torch.tensor([[1, 2]]))[0].tolist() == [[25.0, 1.0]]
        assert policy.budget.name == "adakv"
    finally:
        KVPolicy._plugins.pop("long_keys", None)
