"""What documents name is there: links, files, modules, commands with their options; their examples run."""

import re
import shlex
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.main import get_command

from corm_batch import KVPolicy, load_plugin, read_results
from corm_batch.cli import app
from tests.outputs import answered, commit

ROOT = Path(__file__).parents[1]
FOLDERS = ("corm_batch", "infra", "jobs")
DOCUMENTS = [ROOT / "README.md", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
# what a document names in backticks and means by it: a file beside it, or from the root or the package
FILE = re.compile(
    r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|sh|yaml|txt|toml|json|parquet)|(?:corm_batch|infra|tests|jobs)/[\w./]*)`"
)
SHELL = {name: "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)) for name, text in TEXTS.items()}
MADE = {"job.yaml", "config.json", "evaluation.json"}
"""Names of files that somebody else makes."""


def parametrized(pattern, texts=TEXTS):
    return pytest.mark.parametrize(
        ("document", "named"),
        [(name, found) for name, text in texts.items() for found in sorted(set(re.findall(pattern, text)))],
    )


def block(document, language):
    """The only fenced block of a language in a document."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXTS[document], re.M | re.S)
    return found


@pytest.mark.parametrize(
    "folder",
    [
        "corm_batch/engine",
        "corm_batch/evaluation",
        "corm_batch/ops",
        "corm_batch/pipeline",
        "corm_batch/policies",
        "infra",
        "jobs",
    ],
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
def test_modules_are_there(document, named):
    assert find_spec(named) is not None


@parametrized(r"(?:sh|python) (infra/\S+?)[\s`]")
def test_scripts_are_there(document, named):
    assert (ROOT / named).is_file()


@parametrized(r"(?m)^corm-batch .*", SHELL)
@pytest.mark.usefixtures("leave_no_plugin")
def test_commands_take_these_arguments(document, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(named, comments=True)[1:]
    for plugin in (word for word in words if word.endswith(".py")):
        (tmp_path / plugin).write_text(block("corm_batch/policies/README.md", "python"))
    command, context = get_command(app), None
    while hasattr(command, "commands"):
        context = command.make_context(command.name, words, parent=context)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    assert command.make_context(command.name, words, parent=context).params


def test_the_example_of_reading_runs(tmp_path, monkeypatch):
    commit(tmp_path / "out/quickstart", [answered("a", output="old")])
    commit(tmp_path / "out/quickstart", [answered("a", output="new"), answered("b")], number=1)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(block("jobs/README.md", "python"), found)
    assert sorted(found["rows"]["output"].to_pylist()) == ["answer to b", "new"]
    assert found["costs"]["kv_bytes_peak"].to_pylist() == [2 * 2**20] * 2


def test_the_query_of_parts_finds_what_read_results_finds(tmp_path):
    commit(tmp_path, [answered("a"), answered("b", output="old"), answered("c")])
    commit(tmp_path, [answered("b", output="new"), answered("c", status="gone"), answered("d")], number=1)
    query = re.sub(r"read_parquet\(.*\)", "parts", block("jobs/README.md", "sql"))
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE parts (filename, doc_id, status, output)")
        for part in sorted((tmp_path / "results").iterdir()):
            rows = pq.read_table(part, columns=["doc_id", "status", "output"]).to_pylist()
            database.executemany("INSERT INTO parts VALUES (?, ?, ?, ?)", [(part.name, *row.values()) for row in rows])
        found = {row[1]: row[3] for row in database.execute(query)}
    wanted = read_results(tmp_path)
    assert found == dict(zip(wanted["doc_id"].to_pylist(), wanted["output"].to_pylist(), strict=True))
    assert set(found) == {"a", "b", "d"}


def test_the_example_of_the_engine_runs(tiny_llama, capsys):
    code = block("corm_batch/engine/README.md", "python").replace("jobs/quickstart/model", tiny_llama)
    exec(code, {"ids": list(range(50, 90))})
    assert re.fullmatch(r"\(\d.*\) (stop|length) \d+ \d+ 1\.0\n\[(0\.0, )+0\.0\]\n", capsys.readouterr().out)


def test_the_example_of_a_policy_is_one(tmp_path):
    code, job = (block("corm_batch/policies/README.md", language) for language in ("python", "yaml"))
    (tmp_path / "long_keys.py").write_text(code)
    try:
        load_plugin(str(tmp_path / "long_keys.py"))
        policy = KVPolicy.from_spec(yaml.safe_load(job)["policy"])
        key = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
        assert policy.born(0, key, key, torch.tensor([[1, 2]]))[0].tolist() == [[25.0, 1.0]]
        assert policy.budget.name == "adakv"
    finally:
        KVPolicy._plugins.pop("long_keys", None)
