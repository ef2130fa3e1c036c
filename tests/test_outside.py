"""Somebody who installed the package adds a plug-in of every kind, one file each, and edits nothing else."""

import json

import pytest
import yaml
from tokenizers import Tokenizer

import corm_batch as public
from corm_batch.cluster import ray_jobs
from corm_batch.data.newest_rows import read_results
from corm_batch.schedule.registry import ScheduleRegistry
from infra.training import evaluate
from tests.cli.conftest import corm_batch  # noqa: F401
from tests.cluster.test_ray_jobs import Client
from tests.conftest import REFERENCE_MODEL, forget_plugins

pytestmark = pytest.mark.usefixtures("leave_no_plugin")

NORM = '''
import torch
from pydantic import Field

from corm_batch import Column, ScoringPolicy

class LongKeys(ScoringPolicy, name="long_keys"):
    """Keep long keys, by a column of its own."""

    power: float = Field(1.0, gt=0)
    columns = (Column("length"),)

    def born(self, layer, key, value, position):
        return (torch.linalg.vector_norm(key, dim=-1, dtype=torch.float32) ** self.power,)

    def score(self, layer, entries, step):
        return entries["length"]
'''
KEYS = '''
import torch

from corm_batch import Needs, ScoringPolicy

class ReadsKeys(ScoringPolicy, name="reads_keys"):
    """Keep long keys, read again each time."""

    @property
    def needs(self):
        return Needs(keys=True)

    def score(self, layer, entries, step):
        return torch.linalg.vector_norm(entries.key.float(), dim=-1)
'''
BUDGET = '''
from corm_batch import Budget

class LessAbove(Budget, name="less_above"):
    """Half as much from some layer on."""

    above: int = 1

    def most(self, place, num_tokens):
        return max(place.recent, self.max_kept // (1 + (place.layer >= self.above)))
'''
SOURCE = '''
from corm_batch import Document, Source, Split

class Lines(Source, name="poem"):
    """Every line of a text."""

    uri: str

    def splits(self, columns=()):
        return [Split(self.uri, 0)]

    def read(self, split, columns):
        with open(split.uri) as file:
            for number, line in enumerate(file):
                yield Document(f"line {number}", line.strip())
'''
TASK = '''
import pyarrow as pa

from corm_batch import Prompt, Task, TaskResult

class Shout(Task, name="shout"):
    """What the model says, in capitals, with its length."""

    mark: str = "!"

    @property
    def result_fields(self):
        return [pa.field("letters", pa.int64())]

    async def run(self, document, asker):
        answer = await asker.ask(Prompt(document.text, "Sum up."), self.sampling)
        return TaskResult(answer.text.upper() + self.mark, {"letters": len(answer.text)})
'''
SUITE = '''
from corm_batch import Case, Suite

class Sums(Suite, name="sums"):
    """Small sums."""

    most: int = 3

    def cases(self, tokenizer, lengths, count, seed="evaluation", texts=()):
        for number in range(min(count, self.most)):
            document = f"{number} and {number} are {2 * number}."
            yield Case("sums", "double", document, f"What is {number} and {number}?", (str(2 * number),), 4)

    def score(self, case, text):
        return {"exact": float(text == case.answers[0]), "letters": float(len(text))}
'''


FILES = {"norm": NORM, "keys": KEYS, "budget": BUDGET, "source": SOURCE, "task": TASK, "suite": SUITE}
POLICY = {"name": "long_keys", "recent": 16, "budget": {"name": "less_above", "max_kept": 32, "above": 5}}


@pytest.fixture
def files(tmp_path):
    """A file for each, none of which a worker could import; by name."""
    for name, text in FILES.items():
        (tmp_path / f"my_{name}.py").write_text(text)
    return {name: str(tmp_path / f"my_{name}.py") for name in FILES}


@pytest.fixture
def plugins(files):
    """The options that a job with all four of its kinds needs."""
    return [part for name in ("source", "task", "norm", "budget") for part in ("--plugin", files[name])]


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "poem.txt").write_text("The ferry leaves at noon, and it is late. " * 9 + "\nNobody came.\n")
    sections = {
        "name": "outside",
        "model": {"name": str(REFERENCE_MODEL), "dtype": "float32", "document_role": "document"},
        "source": {"name": "poem", "uri": str(tmp_path / "poem.txt")},
        "task": {"name": "shout", "max_new_tokens": 4, "mark": "?"},
        "policy": POLICY,
        "engine": {"kv_memory": "64MiB"},
        "output": {"uri": str(tmp_path / "out")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "job.yaml"


@pytest.mark.ray
def test_a_job_of_plugins_from_outside(corm_batch, ray_cluster, files, plugins, spec, tmp_path):  # noqa: F811
    unknown = corm_batch("run", spec)
    assert (unknown.code, "no source is called 'poem'" in unknown.err) == (2, True)
    done = corm_batch("run", spec, *plugins, "--json")
    assert done.code == 0, done.err
    rows = {row["doc_id"]: row for row in read_results(str(tmp_path / "out"), memory=True).to_pylist()}
    assert set(rows) == {"line 0", "line 1"}
    for row in rows.values():
        assert row["output"] == row["output"].upper()
        assert row["letters"] == len(row["output"]) - 1
        assert row["output"].endswith("?")
        assert json.loads(row["policy"])["budget"]["above"] == 5
    lower, upper = rows["line 0"]["kept_per_layer"][:5], rows["line 0"]["kept_per_layer"][5:]
    assert min(lower) > max(upper) + 8, rows["line 0"]["kept_per_layer"]
    planned = corm_batch("plan", spec, *plugins, "--json")
    assert json.loads(planned.out)["done"] == 2

    (tmp_path / "my_task.py").write_text(TASK.replace("Sum up.", "Who came?"))
    assert json.loads(corm_batch("plan", spec, *plugins, "--json").out)["todo"] == 2


def test_a_submitted_job_takes_its_plugins_along(corm_batch, monkeypatch, plugins, spec, tmp_path):  # noqa: F811
    """The folder that is shipped is all that a machine without the files needs."""
    client = Client()
    monkeypatch.setattr(ray_jobs, "connect", lambda address: client)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert corm_batch("submit", spec, *plugins).code == 0
    ((entrypoint, shipped, _, _),) = client.shipped
    forget_plugins()
    for file in tmp_path.glob("my_*.py"):
        file.unlink()
    (tmp_path / "there").mkdir()
    for name, text in shipped.items():
        (tmp_path / "there" / name).write_text(text)
    monkeypatch.chdir(tmp_path / "there")
    command = entrypoint.removeprefix("exec corm-batch run ").split()
    planned = corm_batch("plan", *command, "--json")
    assert (planned.code, json.loads(planned.out)["todo"]) == (0, 2)


def test_a_scheduled_job_names_its_plugins(corm_batch, monkeypatch, plugins, spec, tmp_path):  # noqa: F811
    add = ("schedule", "add", "nightly", spec, "--cron", "0 2 * * *", "--registry", tmp_path / "schedules")
    assert corm_batch(*add).code == 2
    assert corm_batch(*add, *plugins).code == 0
    forget_plugins()
    rendered = corm_batch("schedule", "render", "cron", "nightly", "--registry", tmp_path / "schedules")
    assert f"corm_batch.cli run {spec} {' '.join(plugins)}" in rendered.out
    schedule = ScheduleRegistry(str(tmp_path / "schedules")).schedule("nightly")
    planned = corm_batch("plan", *schedule.arguments()[1:], "--json")
    assert (planned.code, json.loads(planned.out)["todo"]) == (0, 2)


def test_a_suite_from_outside(files, monkeypatch, tmp_path):
    """Asked on the command line, with policies from outside, and from Python."""
    options = [part for name in ("suite", "norm", "keys", "budget") for part in ("--plugin", files[name])]
    policies = [f"{name}={json.dumps(POLICY | {'name': name})}" for name in ("long_keys", "reads_keys")]
    options += ["--policies", *(part for policy in policies for part in ("--policy", policy))]
    options += ["--suites", "{name: sums, most: 2}", "--cases", "5", "--device", "cpu"]
    monkeypatch.setattr(evaluate, "WINDOWS", ())
    argv = ["evaluate", str(REFERENCE_MODEL), *options, "--output", str(tmp_path / "record.json")]
    monkeypatch.setattr("sys.argv", argv)
    evaluate.main()
    found = json.loads((tmp_path / "record.json").read_text())["results"]["policies"]
    first, second = (found[name]["sums"]["scores"]["double"] for name in ("long_keys", "reads_keys"))
    assert first == second
    assert first["exact"]["cases"] == 2
    assert first["letters"] > 0

    suite = public.Suite.from_spec({"name": "sums", "most": 2})
    cases = list(suite.cases(Tokenizer.from_file(f"{REFERENCE_MODEL}/tokenizer.json"), [], 5))
    assert [case.answers for case in cases] == [("0",), ("2",)]
    assert suite.score(cases[1], "2") == {"exact": 1.0, "letters": 1.0}


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_policies_and_a_budget_from_outside(files, tiny_llama, prefill):
    """Both policies keep the same, one by a column of its own, one by the keys; the budget bounds each layer."""
    for name in ("norm", "keys", "budget"):
        public.load_plugin(files[name])
    kept = []
    for name in ("long_keys", "reads_keys"):
        policy = {"name": name, "recent": 4, "budget": {"name": "less_above", "max_kept": 24}}
        engine = public.Engine.from_pretrained(
            tiny_llama, policy=policy, dtype="float32", device="cpu", kv_memory="4MiB", prefill=prefill,
            chunk_size=32, compact_every=4,
        )  # fmt: skip
        sampling = public.SamplingParams(max_new_tokens=9)
        request = public.Request("a", [(7 * i) % 199 for i in range(150)], sampling, return_kept_positions=True)
        (done,) = engine.run([request])
        assert done.error is None
        kept.append((done.token_ids, done.kept_positions))
        lower, upper = ([len(head) for head in layer] for layer in done.kept_positions)
        assert max(lower) < 24 + 9
        assert max(upper) < 12 + 9
        assert min(lower) > max(upper)
    assert kept[0] == kept[1]


def test_the_command_line_lists_them(corm_batch, files):  # noqa: F811
    listed = corm_batch("policies", "--plugin", files["norm"], "--plugin", files["budget"], "--json")
    assert listed.code == 0
    assert {"long_keys", "less_above"} <= {plugin["name"] for plugin in json.loads(listed.out)}
