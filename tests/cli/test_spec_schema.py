"""The JSON Schema of a spec against the spec itself: what one takes, the other takes."""

import copy
import inspect

import jsonschema
import pytest
import yaml

from corm_batch.cli.field_values import EXAMPLES
from corm_batch.cli.spec_schema import KINDS, spec_schema
from corm_batch.errors import SpecError
from corm_batch.spec import JobSpec
from tests.conftest import ROOT
from tests.storage.bases import ERRORS, write_basis
from tests.test_spec import MINIMAL

JOBS = sorted((ROOT / "jobs").rglob("*.yaml"))
SPECS = {path.relative_to(ROOT).as_posix(): yaml.safe_load(path.read_text(encoding="utf-8")) for path in JOBS}
NEEDED = {
    "headkv": {"scores": [[1.0]]},
    "duo_attention": {"scores": [[1.0]]},
    "eigen": {"basis": EXAMPLES["basis"]},
    "extract": {"schema": EXAMPLES["schema"]},
    "prompt": {"template": "{{ text }}", "overflow": "truncate"},
    "question_answer": {"question": "Who?"},
    "parquet": {"uri": "s3://bucket/papers/"},
}
"""What a plug-in does not do without; others come to it where their kind needs it."""
TOGETHER = {
    ("prompt", "reduce_template"): {"overflow": "map_reduce"},
    ("prompt", "messages"): {"template": None},
    ("prompt", "n"): {"temperature": 1},
    ("summarize", "n"): {"temperature": 1, "overflow": "truncate"},
    ("question_answer", "question"): {"question": None},
    ("question_answer", "rows"): {"question": None, "questions": ["Who?", "When?"]},
    ("extract", "questions"): {"ask": "each"},
    ("eigen", "error"): {"basis": "with_errors.safetensors"},
}
"""What comes with an example."""


@pytest.fixture(scope="module")
def schema():
    return spec_schema(own=False)


@pytest.fixture(scope="module")
def valid(schema):
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    return validator.is_valid


def spec_takes(data):
    try:
        JobSpec.from_mapping(copy.deepcopy(data))
    except SpecError:
        return False
    return True


@pytest.mark.parametrize("name", SPECS)
def test_specs_that_come_with_the_package_fit(valid, name):
    assert valid(SPECS[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {}},
        {"policy": {"question": "unknown", "chunk": 128}},
        {"policy": {"question": "known", "window": 64}},
        {"policy": {"name": "snapkv", "budget": {"name": "adakv", "max_kept": 0.25}, "question": "unknown"}},
        {"engine": {"storage": "fp8"}},
        {"engine": {"storage": {"name": "fp8"}, "kv_memory": "512MiB", "propagation": {"name": "attention"}}},
        {"cluster": {"replicas": {"min": 1, "max": 8}}},
        {"verify": {"share": "5%", "stop_above": "5%"}},
        {"verify": None},
        {"task": {"name": "summarize", "stop": "x", "stop_token_ids": 3}},
        {"task": {"name": "question_answer", "questions": "Who?"}},
        {"task": None, "tasks": {"a": {"name": "summarize"}}},
        {"tasks": None},
    ],
)
def test_what_a_spec_takes_fits(valid, changes):
    assert spec_takes(MINIMAL | changes)
    assert valid(MINIMAL | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"tsk": 1},
        {"name": "no blanks"},
        {"task": None},
        {"task": {"name": "sing"}},
        {"task": {"max_new_tokens": 3}},
        {"task": {"name": "summarize", "max_new_tokens": 0}},
        {"task": {"name": "summarize", "max_tokens": 3}},
        {"task": {"name": "summarize"}, "tasks": {"a": {"name": "summarize"}}},
        {"task": None, "tasks": {}},
        {"policy": {"window": 64}},
        {"policy": {"question": "perhaps"}},
        {"policy": {"name": "corm", "windw": 64}},
        {"policy": {"name": "snapkv", "budget": {"name": "none"}}},
        {"engine": {"storage": "fp4"}},
        {"engine": {"propagation": {"name": "attention", "layer": 0}}},
        {"cluster": {"replicas": {"min": 1}}},
        {"verify": {"share": [1]}},
        {"output": {"uri": "out", "format": "csvv"}},
        {"source": {"name": "parquet"}},
    ],
)
def test_what_a_spec_refuses_does_not_fit(valid, changes):
    assert not spec_takes(MINIMAL | changes)
    assert not valid(MINIMAL | changes)


def sections(schema):
    """(path of a section, its fields) of everything that may stand in a spec."""
    defs = schema["$defs"]
    yield "", schema["properties"]
    for path in ("model", "engine", "cluster", "verify", "output"):
        name = next(name for name in defs if name.lower() in (f"{path}section", f"{path}config"))
        yield path, defs[name]["properties"]
    for kind in KINDS:
        for name, section in defs.items():
            if name.startswith(f"{kind.kind}."):
                yield name, section["properties"]


def test_every_field_has_a_meaning_an_example_and_a_number_its_unit(schema):
    seen = 0
    for path, fields in sections(schema):
        for name, field in fields.items():
            if "const" in field:
                continue
            seen += 1
            (example,) = field["examples"]
            assert field["description"], (path, name)
            assert example not in (None, [], {}), (path, name)
            jsonschema.Draft202012Validator({**field, "$defs": schema["$defs"]}).validate(example)
            if {"integer", "number"} & set(kinds_of(field)):
                assert field["unit"], f"{path}.{name}: its unit is to be named in corm_batch/cli/field_values.py"
    assert seen > 150


def kinds_of(field):
    for choice in field.get("anyOf", [field]):
        yield choice.get("type")
        yield from kinds_of(choice.get("items", {})) if choice.get("items") else ()


def test_every_example_is_one_that_a_spec_takes(schema, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / EXAMPLES["basis"]).touch()  # empty, of the hash that is the example of one
    write_basis(tmp_path / "with_errors.safetensors", errors=ERRORS)
    for path, fields in sections(schema):
        kind, _, plugin = path.partition(".")
        for name, field in fields.items():
            if "const" in field or not path:
                continue
            example = {name: field["examples"][0]}
            if not plugin:
                assert JobSpec.from_mapping(MINIMAL | {path: MINIMAL.get(path, {}) | example}), (path, name)
                continue
            base = {"uri": "s3://bucket/papers/"} if kind == "source" else NEEDED.get(plugin, {})
            fields_given = {"name": plugin, **base, **TOGETHER.get((plugin, name), {}), **example}
            if plugin == "question_answer" and name.startswith("question"):
                fields_given = {"name": plugin, **example}
            fields_given.pop("question") if kind == "policy" and name == "question" else None
            (owner,) = (one for one in KINDS if one.kind == kind)
            assert owner.from_spec(fields_given).name == plugin, (path, name)


def test_a_plug_in_of_ones_own_is_in_it_once_it_is_loaded(tmp_path, leave_no_plugin):
    from corm_batch.registry import load_plugin

    (tmp_path / "mine.py").write_text(
        inspect.cleandoc(
            '''
            """Mine."""
            from corm_batch import KVPolicy

            class Mine(KVPolicy, name="mine"):
                """My policy."""
                depth: int = 3
            '''
        )
    )
    load_plugin(str(tmp_path / "mine.py"))
    validator = jsonschema.Draft202012Validator(spec_schema())
    assert validator.is_valid(MINIMAL | {"policy": {"name": "mine", "depth": 4}})
    assert not validator.is_valid(MINIMAL | {"policy": {"name": "mine", "deep": 4}})
    assert "policy.mine" not in spec_schema(own=False)["$defs"]
