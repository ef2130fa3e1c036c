"""Somebody who installed the package adds a plug-in of every kind, one file each, and edits nothing else."""

import json

import pytest
import yaml

import corm_batch as public
from corm_batch.output.newest_rows import read_results
from tests.cli.conftest import corm_batch  # noqa: F401
from tests.conftest import REFERENCE_MODEL

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

    def cases(self, tokenizer, lengths, count, seed="evaluation"):
        for number in range(min(count, self.most)):
            document = self.encode(tokenizer, f"{number} and {number} are {2 * number}.")
            yield Case("sums", "double", document, f"What is {number} and {number}?", (str(2 * number),), 4)

    def score(self, case, text):
        return {"exact": float(text == case.answers[0]), "letters": float(len(text))}
'''


@pytest.fixture
def files(tmp_path):
    """--plugin options of the files, none of which a worker could import."""
    options = []
    for name, text in {"source": SOURCE, "task": TASK}.items():
        (tmp_path / f"my_{name}.py").write_text(text)
        options += ["--plugin", str(tmp_path / f"my_{name}.py")]
    return options


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "poem.txt").write_text("The ferry leaves at noon.\nNobody came.\n")
    sections = {
        "name": "outside",
        "model": {"name": str(REFERENCE_MODEL), "dtype": "float32", "document_role": "document"},
        "source": {"name": "poem", "uri": str(tmp_path / "poem.txt")},
        "task": {"name": "shout", "max_new_tokens": 4, "mark": "?"},
        "engine": {"kv_memory": "64MiB"},
        "output": {"uri": str(tmp_path / "out")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "job.yaml"


@pytest.mark.ray
def test_a_job_of_plugins_from_outside(corm_batch, ray_cluster, files, spec, tmp_path):  # noqa: F811
    assert corm_batch("run", spec).code == 2
    done = corm_batch("run", spec, *files, "--json")
    assert done.code == 0, done.err
    rows = {row["doc_id"]: row for row in read_results(str(tmp_path / "out")).to_pylist()}
    assert set(rows) == {"line 0", "line 1"}
    for row in rows.values():
        assert row["output"] == row["output"].upper()
        assert row["letters"] == len(row["output"]) - 1
        assert row["output"].endswith("?")
    again = corm_batch("run", spec, *files, "--json")
    assert json.loads(again.out.splitlines()[-1])["skipped"] == 2
    planned = corm_batch("plan", spec, *files, "--json")
    assert json.loads(planned.out)["done"] == 2

    (tmp_path / "my_task.py").write_text(TASK.replace("Sum up.", "Who came?"))
    edited = corm_batch("run", spec, *files, "--json")
    assert json.loads(edited.out.splitlines()[-1])["ok"] == 2


def test_a_suite_from_outside(tmp_path):
    from tokenizers import Tokenizer

    (tmp_path / "my_suite.py").write_text(SUITE)
    public.load_plugin(str(tmp_path / "my_suite.py"))
    suite = public.Suite.from_spec({"name": "sums", "most": 2})
    cases = list(suite.cases(Tokenizer.from_file(f"{REFERENCE_MODEL}/tokenizer.json"), [], 5))
    assert [case.answers for case in cases] == [("0",), ("2",)]
    assert suite.score(cases[1], "2") == {"exact": 1.0, "letters": 1.0}


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_policies_and_a_budget_from_outside(tmp_path, tiny_llama, prefill):
    """Both policies keep the same, one by a column of its own, one by the keys; the budget bounds each layer."""
    for name, text in {"norm": NORM, "keys": KEYS, "budget": BUDGET}.items():
        (tmp_path / f"my_{name}.py").write_text(text)
        public.load_plugin(str(tmp_path / f"my_{name}.py"))
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


def test_the_command_line_lists_them(corm_batch, tmp_path):  # noqa: F811
    (tmp_path / "my_norm.py").write_text(NORM)
    listed = corm_batch("policies", "--plugin", tmp_path / "my_norm.py", "--json")
    assert '"long_keys"' in listed.out
    assert listed.code == 0
