"""AnswerSettings: what counts as a setting, and which rows an edit or an upgrade leaves done."""

import json
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import BaseModel

from corm_batch.data.parts import list_parts, read_part
from corm_batch.data.uri import resolve_uri
from corm_batch.output.ledger import Ledger
from corm_batch.output.settings import SETTINGS, AnswerSettings, _flat
from corm_batch.policies.corm import Corm
from corm_batch.registry import Plugin
from corm_batch.spec import JobSpec
from corm_batch.storage.int8 import Int8
from corm_batch.storage.model import Model
from tests.test_spec import MINIMAL

DATA = Path(__file__).parent / "data"
KEPT = sorted(path.stem for path in DATA.glob("*.yaml"))


def settings(model_hash="abc", **sections):
    return AnswerSettings.of(JobSpec.from_mapping({**MINIMAL, **sections}), model_hash)


def written(now, *, told=None, **values):
    """Settings as another version wrote them: with these values; None takes one away."""
    content = json.loads(now.to_metadata())
    content["values"] |= {path.replace("__", "."): value for path, value in values.items()}
    content["values"] = {path: value for path, value in content["values"].items() if value is not None}
    content["told"] = [path for path in content["told"] if path in content["values"]] + list(told or ())
    return AnswerSettings.of_part({SETTINGS[0].encode(): json.dumps(content).encode()})


CHANGES_ANSWERS = [
    {"model": {"name": "org/other"}},
    {"model": {"name": "org/model", "revision": "v2"}},
    {"model": {"name": "org/model", "dtype": "float32"}},
    {"model": {"name": "org/model", "document_role": "document"}},
    {"model": {"name": "org/model", "system": "Be brief."}},
    {"task": {"name": "summarize", "instruction": "Sum up."}},
    {"task": {"name": "summarize", "max_new_tokens": 5}},
    {"task": {"name": "summarize", "temperature": 0.5}},
    {"model": {"name": "org/model", "chat_template_kwargs": {"enable_thinking": False}}},
    {"task": {"name": "summarize", "seed": 1}},
    {"task": {"name": "summarize", "top_k": 40}},
    {"task": {"name": "summarize", "min_p": 0.1}},
    {"task": {"name": "summarize", "repetition_penalty": 1.1}},
    {"task": {"name": "summarize", "presence_penalty": 0.1}},
    {"task": {"name": "summarize", "frequency_penalty": 0.1}},
    {"task": {"name": "summarize", "stop": ["x"]}},
    {"task": {"name": "summarize", "overflow": "truncate"}},
    {"policy": {"name": "full"}},
    {"policy": {"name": "corm", "window": 256}},
    {"policy": {"name": "corm", "preset": "paper"}},
    {"engine": {"prefill": "streaming"}},
    {"engine": {"chunk_size": 512}},
    {"engine": {"max_model_len": 4096}},
    {"engine": {"compact_every": 7}},
    {"engine": {"storage": "fp8"}},
    {"engine": {"storage": {"name": "fp8"}}},
    {"engine": {"propagation": {"name": "attention"}}},
    {"engine": {"sharing": {7: 2}}},
    {"model": {"name": "org/model", "trust_remote_code": True}},
    {"model": {"name": "org/model", "weights": "fp8"}},
]
CHANGES_NOTHING = [
    {"verify": {"share": 0}},
    {"verify": {"share": 0.05, "min_gap": 1, "stop_above": "5%"}},
    {"verify": {"share": 1, "on_difference": "rerun"}},
    {"fallback": "full"},
    {"name": "other"},
    {"model": {"name": "org/model", "device": "cpu"}},
    {"source": {"name": "jsonl", "uri": "elsewhere"}},
    {"output": {"uri": "elsewhere", "format": "arrow", "part_documents": 5}},
    {"cluster": {"replicas": 8, "look_ahead": 5}},
    {"engine": {"page_size": 32, "kv_memory": "1GiB", "max_sequences": 5, "step_token_budget": 100}},
    {"engine": {"tensor_parallel": 2}},
    {"engine": {"sharing": {}}},
]


@pytest.mark.parametrize("sections", CHANGES_ANSWERS, ids=str)
def test_fingerprint_follows_what_changes_an_answer(sections):
    assert settings(**sections).fingerprint != settings().fingerprint


@pytest.mark.parametrize("sections", CHANGES_NOTHING, ids=str)
def test_fingerprint_leaves_out_where_and_how_fast(sections):
    assert settings(**sections).fingerprint == settings().fingerprint


def test_tensor_parallel_counts_under_a_policy_that_counts_the_heads_of_a_rank():
    random = {"name": "random"}
    assert settings(policy=random).fingerprint != settings(policy=random, engine={"tensor_parallel": 2}).fingerprint
    (change,) = settings(policy=random).changes(written(settings(policy=random, engine={"tensor_parallel": 2})))
    assert change.text == "engine.tensor_parallel 2 -> 1"


def test_fingerprint_follows_the_weights_not_the_folder():
    assert settings().fingerprint != settings("abd").fingerprint
    here, there = settings(model={"name": "/here"}), settings(model={"name": "s3://bucket/there"})
    assert here.fingerprint == there.fingerprint
    assert len(here.fingerprint) == 64


@pytest.mark.parametrize(
    "policy",
    [lambda scores: {"name": "duo_attention", "scores": scores},
     lambda scores: {"name": "snapkv", "budget": {"name": "headkv", "scores": scores}}],
)  # fmt: skip
def test_fingerprint_follows_the_scores_in_a_file_not_the_file(policy, tmp_path):
    def of(name, scores):
        path = tmp_path / name
        path.write_text(json.dumps({"model": name, "scores": scores}))
        return settings(policy=policy(str(path)))

    before = of("heads.json", [[1.0, 0.5], [0.0, 2.0]])
    assert of("elsewhere.json", [[1.0, 0.5], [0.0, 2.0]]).fingerprint == before.fingerprint
    after = of("heads.json", [[1.0, 0.5], [0.0, 2.5]])
    assert after.fingerprint != before.fingerprint
    assert [change.path.rpartition(".")[2] for change in after.changes(before)] == ["scores"]


def test_fingerprint_follows_the_layers_in_a_file_not_the_file(tmp_path):
    path = tmp_path / "sharing.json"
    path.write_text(json.dumps({"model": "m", "sharing": {"7": 2, "5": 1}}))
    found = settings(engine={"sharing": str(path)})
    assert found.fingerprint == settings(engine={"sharing": {5: 1, 7: 2}}).fingerprint
    other = settings(engine={"sharing": {5: 1, 7: 3}})
    assert [change.text for change in other.changes(found)] == ["engine.sharing.7 2 -> 3"]


def test_to_name_the_form_that_entries_have_anyway_is_no_other_setting():
    def of(usual, **engine):
        return AnswerSettings.of(JobSpec.from_mapping({**MINIMAL, "engine": engine}), "abc", usual=usual)

    for usual, other in ((Int8(), "model"), (Model(), "int8")):
        unnamed, named = of(usual), of(usual, storage=usual.name)
        assert unnamed.values["engine.storage.name"] == usual.name
        assert unnamed.fingerprint == named.fingerprint == settings().fingerprint
        (change,) = of(usual, storage=other).changes(unnamed)
        assert change.text == f'engine.storage.name "{usual.name}" -> "{other}"'


def test_rows_of_a_version_with_another_form_by_default_stand():
    """Unnamed, as a new default leaves rows done; named, as they are in that form."""
    before = written(settings(), engine__storage=None, engine__storage__name="model")
    for engine in ({}, {"storage": "model"}):
        spec = JobSpec.from_mapping({**MINIMAL, "engine": engine})
        assert AnswerSettings.of(spec, "abc", usual=Int8()).same_as(before)
    spec = JobSpec.from_mapping({**MINIMAL, "engine": {"storage": "fp8"}})
    assert not AnswerSettings.of(spec, "abc", usual=Int8()).same_as(before)


def test_what_is_written_down_is_read_again():
    now = settings(policy={"name": "corm", "window": 64}, task={"name": "summarize", "stop": ["é"]})
    before = AnswerSettings.of_part({SETTINGS[0].encode(): now.to_metadata().encode()})
    assert (before.values, before.told, before.fingerprint) == (now.values, now.told, now.fingerprint)
    assert now.same_as(before)
    assert now.changes(before) == ()
    assert now.told == {"model.name": "org/model", "model.hash": "abc", "policy.name": "corm", "policy.window": 64,
                        "task.name": "summarize", "task.stop": ["é"]}  # fmt: skip


def test_a_field_that_is_new_leaves_rows_done_at_its_default_alone():
    before = written(settings(), policy__reach=None, engine__compact_every=None)
    assert settings().same_as(before)
    now = settings(policy={"name": "corm", "reach": 32})
    assert not now.same_as(before)
    assert [change.text for change in now.changes(before)] == ["policy.reach 64 -> 32"]


def test_another_default_leaves_rows_done():
    before = written(settings(), policy__window=64)  # was the default then
    assert settings().same_as(before)
    assert settings(policy={"name": "corm", "window": 128}).same_as(before)
    (change,) = settings(policy={"name": "corm", "window": 256}).changes(before)
    assert change.text == "policy.window 64 -> 256"


def test_a_value_that_was_set_and_is_the_default_now_leaves_rows_done():
    before = written(settings(), told=["policy.window"])
    assert before.told["policy.window"] == 128
    assert settings().same_as(before)


def test_a_setting_that_is_no_longer_known_is_another_one():
    before = written(settings(), told=["policy.sinks"], policy__sinks=4)
    assert [change.text for change in settings().changes(before)] == ["policy.sinks 4 -> -"]
    assert settings().same_as(written(settings(), policy__sinks=0))  # its default, which changed nothing


def test_a_field_that_is_gone_leaves_rows_done_at_the_values_that_said_nothing(monkeypatch):
    def before(**fields):
        spec = yaml.safe_load(JobSpec.from_mapping(MINIMAL).to_yaml())
        spec["policy"] |= fields
        return AnswerSettings.of_part(
            {b"corm_batch.spec": yaml.safe_dump(spec).encode(), b"corm_batch.model_hash": b"abc"}
        )

    assert settings().same_as(before(sinks=None))
    assert not settings().same_as(before(sinks=4))
    monkeypatch.setattr(Corm, "gone", {"sinks": (0, 4)})
    assert settings().same_as(before(sinks=4))
    assert [change.text for change in settings().changes(before(sinks=5))] == ["policy.sinks 5 -> -"]


class Inner(Plugin, kind="inner", package="corm_batch.policies"):
    """A plug-in inside a plug-in."""

    most: int = 7


class InnerOne(Inner, name="one"):
    """One."""


class InnerTwo(Inner, name="two"):
    """Another."""


class Outer(BaseModel):
    """Fields that hold plug-ins, with and without a default."""

    inner: Annotated[Inner, "marked"] | None = None
    other: Inner = InnerOne()
    values: dict[str, int] = {}


def told(**fields):
    found = _flat(Outer, fields, "policy.", frozenset(), True)
    return {path: value for path, value, default in found if value != default}


def test_plug_ins_inside_plug_ins_are_told_by_their_own_defaults(monkeypatch):
    at_default = {"inner": None, "other": {"name": "one", "most": 7}, "values": {}}
    assert told(**at_default) == {}
    assert told(inner={"name": "one", "most": 7}) == {"policy.inner.name": "one"}
    assert told(other={"name": "two", "most": 8}) == {"policy.other.name": "two", "policy.other.most": 8}
    assert told(values={"a": 1}) == {"policy.values": {"a": 1}}
    monkeypatch.setattr(InnerOne, "version", 3)
    assert told(**at_default) == {"policy.other.version": 3}


def test_propagation_is_told_with_its_fields_and_another_one_by_its_name():
    def leaving(**fields):
        return settings(engine={"propagation": fields})

    third = leaving(name="attention", share=0.3)
    assert third.fingerprint == leaving(name="attention").fingerprint, "a default says nothing"
    assert [one.text for one in leaving(name="attention", share=0.2).changes(third)] == [
        "engine.propagation.share 0.3 -> 0.2"
    ]
    assert [one.text for one in leaving(name="cumulative", block=32).changes(third)] == [
        'engine.propagation.name "attention" -> "cumulative"'
    ]
    assert settings().fingerprint == settings(engine={"propagation": None}).fingerprint


def test_a_version_of_a_plug_in_has_its_rows_answered_again(monkeypatch):
    before = written(settings())
    others = written(settings(policy={"name": "full"}))
    monkeypatch.setattr(Corm, "version", 2)
    assert [change.text for change in settings().changes(before)] == ["policy.version 1 -> 2"]
    assert settings().fingerprint != before.fingerprint
    assert settings().same_as(written(settings()))
    assert settings(policy={"name": "full"}).same_as(others)


def test_a_version_of_the_model_has_its_rows_answered_again():
    spec = JobSpec.from_mapping(MINIMAL)
    before, now = (AnswerSettings.of(spec, "abc", version) for version in (1, 2))
    assert before.fingerprint == settings().fingerprint != now.fingerprint
    assert [change.text for change in now.changes(before)] == ["model.version 1 -> 2"]
    assert AnswerSettings.of_part({SETTINGS[0].encode(): now.to_metadata().encode()}).values["model.version"] == 2
    assert now.same_as(AnswerSettings.of_part({SETTINGS[0].encode(): now.to_metadata().encode()}))
    assert not now.same_as(written(before, model__version=None))
    assert before.same_as(written(before, model__version=None))


def test_changes_are_named_by_path_with_both_values():
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}}
    extract = {"name": "extract", "schema": schema}
    before = written(settings(task=extract, policy={"name": "snapkv", "budget": {"name": "uniform", "max_kept": 64}}))
    edited = {
        **extract,
        "schema": {**schema, "properties": {"year": {"type": "string"}}},
        "instruction": "x{schema}" * 50,
    }
    now = settings("def", task=edited, model={"name": "org/other"})
    texts = [change.text for change in now.changes(before)]
    assert [text.partition(" ")[0] for text in texts] == [
        "model.hash", "model.name", "policy.name", "task.instruction", "task.schema.properties.year.type"
    ]  # fmt: skip
    assert texts[2] == 'policy.name "snapkv" -> "corm"'
    assert texts[4] == 'task.schema.properties.year.type "integer" -> "string"'
    assert len(texts[3]) < 200
    assert [change.text for change in settings().changes(written(settings(task=extract)))] == [
        'task.name "extract" -> "summarize"'
    ]


@pytest.mark.parametrize(
    "metadata",
    [{}, {b"corm_batch.spec": b"{"}, {b"corm_batch.spec": b"name: x", b"corm_batch.model_hash": b"a"}]
    + [{b"corm_batch.settings": content} for content in (b"[]", b"{", b'{"values": {}, "told": ["a"]}')],
)
def test_metadata_that_tells_nothing(metadata):
    assert AnswerSettings.of_part(metadata) is None


@pytest.mark.parametrize("name", KEPT)
def test_an_output_of_an_earlier_version_is_done(name, tmp_path, monkeypatch):
    """The outputs in data/ were written before settings were; each beside the spec as its user wrote it."""
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = JobSpec.load(str(DATA / f"{name}.yaml"), [f"source.uri={DATA}/documents.parquet"])
    output = resolve_uri(str(DATA / name))
    (part,) = list_parts(f"{output}/results")
    metadata = read_part(part, ["doc_id"]).schema.metadata
    model_hash = metadata[b"corm_batch.model_hash"].decode()
    assert SETTINGS[0].encode() not in metadata
    ledger = Ledger.read(output, AnswerSettings.of(spec, model_hash), spec.name)
    documents = [
        document
        for split in spec.source.splits(spec.task.source_columns)
        for document in spec.source.read(split, spec.task.source_columns)
    ]
    assert [ledger.state(document) for document in documents] == ["ok", "ok", "failed"]
    assert (ledger.earlier(), ledger.damaged) == ((), ())
    for other in (AnswerSettings.of(spec, "other weights"), settings(model_hash)):
        ledger = Ledger.read(output, other, spec.name)
        assert [ledger.state(document) for document in documents] == ["new"] * 3


def test_outputs_of_an_earlier_version_are_of_every_task_and_of_several_policies():
    specs = [JobSpec.load(str(DATA / f"{name}.yaml")) for name in KEPT]
    assert {spec.task.name for spec in specs} == {"question_answer", "extract", "prompt", "summarize"}
    assert {spec.policy.name for spec in specs} >= {"corm", "snapkv", "random", "full"}
    assert {spec.output.format for spec in specs} == {"parquet", "arrow"}


def test_several_tasks_are_told_each_by_its_own_defaults():
    tasks = {"summary": {"name": "summarize"}, "asked": {"name": "question_answer", "question": "Who?"}}
    now = settings(task=None, tasks=tasks)
    assert {path: value for path, value in now.told.items() if path.startswith("task")} == {
        "tasks.summary.name": "summarize",
        "tasks.asked.name": "question_answer",
        "tasks.asked.question": "Who?",
    }
    assert now.fingerprint == settings(task=None, tasks=dict(reversed(tasks.items()))).fingerprint
    spelled = settings(task=None, tasks={**tasks, "summary": {"name": "summarize", "max_new_tokens": 256}})
    assert now.same_as(spelled)
    seeded = {**tasks, "summary": {"name": "summarize", "seed": 1}}
    assert [change.text for change in settings(task=None, tasks=seeded).changes(now)] == ["tasks.summary.seed 0 -> 1"]
    other = {**tasks, "asked": {"name": "summarize"}}
    assert [change.text for change in settings(task=None, tasks=other).changes(now)] == [
        'tasks.asked.name "question_answer" -> "summarize"'
    ]
    assert not now.same_as(settings())
