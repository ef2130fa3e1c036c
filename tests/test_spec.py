import io
import pickle
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.audit.config import MIN_GAP, VerifyConfig
from corm_batch.errors import SpecError
from corm_batch.spec import JobSpec

JOBS = Path(__file__).parents[1] / "jobs"
MINIMAL = {
    "name": "papers",
    "model": {"name": "org/model"},
    "source": {"name": "parquet", "uri": "s3://bucket/papers/"},
    "task": {"name": "summarize"},
    "output": {"uri": "s3://bucket/summaries/"},
}
TWO_FIELDS = {"type": "object", "properties": {"year": {"type": "integer"}, "place": {"type": "string"}}}


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "job.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
        return str(path)

    return written


def spec(**sections):
    return JobSpec.from_mapping({**MINIMAL, **sections})


def test_tokens_do_not_leave_under_a_policy_that_needs_them_all():
    kvzip, leaving = {"name": "kvzip"}, {"propagation": {"name": "attention"}}
    assert spec(policy=kvzip).engine.propagation is None
    assert spec(engine=leaving).engine.propagation.share == 0.3
    with pytest.raises(SpecError, match=r"engine.propagation: attention, but under policy.name: kvzip the model reads"):
        spec(policy=kvzip, engine=leaving)


def test_a_spec_comes_from_standard_input(write, monkeypatch):
    def pipe(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    pipe(yaml.safe_dump(MINIMAL).encode())
    assert JobSpec.load("-", ["task.max_new_tokens=7"]) == spec(task={"name": "summarize", "max_new_tokens": 7})
    for content, problem in ((b"", "expected sections"), (b"a: [", "no valid YAML"), (b"\xff", "cannot read the spec")):
        pipe(content)
        with pytest.raises(SpecError, match=f"^standard input: {problem}"):
            JobSpec.load("-")


def test_defaults_of_a_minimal_spec(write):
    job = JobSpec.load(write(MINIMAL))
    policy = job.policy.to_spec()
    assert {key: policy[key] for key in ("name", "window", "recent", "tau", "threshold")} == {
        "name": "corm",
        "window": 128,
        "recent": 64,
        "tau": 36.0,
        "threshold": "step",
    }
    assert (job.model.dtype, job.model.device, job.model.document_role) == ("bfloat16", "auto", "user")
    assert (job.cluster.replicas, job.cluster.gpus_per_replica, job.cluster.address) == (1, None, None)
    assert (job.output.format, job.engine.prefill) == ("parquet", "exact")


@pytest.mark.parametrize(
    ("task", "several"),
    [
        ({"name": "question_answer", "question": "Who?"}, False),
        ({"name": "question_answer", "questions": ["Who?"]}, False),
        ({"name": "question_answer", "questions": ["Who?", "When?"]}, True),
        ({"name": "question_answer", "questions_column": "asked", "rows": "question"}, True),
        ({"name": "extract", "schema": TWO_FIELDS}, False),
        ({"name": "extract", "schema": TWO_FIELDS, "ask": "each"}, True),
        ({"name": "extract", "schema": {"type": "array", "items": TWO_FIELDS}, "ask": "each"}, True),
        ({"name": "extract", "schema": TWO_FIELDS, "ask": "auto"}, True),
        ({"name": "summarize"}, False),
        ({"one": {"name": "summarize"}}, False),
        ({"one": {"name": "summarize"}, "two": {"name": "question_answer", "question": "Who?"}}, True),
        ({"one": {"name": "question_answer", "questions": ["Who?", "When?"]}}, True),
    ],
)
def test_the_default_policy_judges_without_the_question_where_several_are_asked_over_one_reading(task, several, write):
    tasks = {"task": task} if "name" in task else {"task": None, "tasks": task}
    job = spec(**tasks)
    assert (job.task.asks_several, job.policy.name) == (several, "kvzip" if several else "corm")
    assert JobSpec.load(write(job.to_yaml())) == job
    assert spec(**tasks, policy={"name": "snapkv"}).policy.name == "snapkv"
    assert spec(**tasks, policy={"question": "known"}).policy == spec(**tasks, policy={"name": "corm"}).policy
    assert spec(**tasks, policy={"question": "unknown"}).policy.name == "kvzip"


def test_complete_spec_survives_yaml_and_pickle(write):
    job = spec(
        task={
            "name": "extract",
            "schema": {"type": "object", "properties": {"year": {"type": "integer"}}},
            "ask": "each",
            "questions": {"year": "Année ?"},
            "stop": ["\n\n"],
        },
        policy={"name": "random", "keep_ratio": 0.5},
        engine={"kv_memory": "512MiB"},
        cluster={"replicas": {"min": 2, "max": 8}},
    )
    assert JobSpec.load(write(job.to_yaml())) == job
    assert pickle.loads(pickle.dumps(job)) == job
    assert "Année" in job.to_yaml()
    assert job.engine.kv_memory == 512 * 2**20


def test_overrides_are_yaml_and_reach_any_depth(write):
    job = JobSpec.load(
        write(MINIMAL),
        ["task.max_new_tokens=5", "cluster.replicas=8", "policy={name: full}", "task.stop=[a, b]", "model.system=a=b"],
    )
    assert (job.task.max_new_tokens, job.cluster.replicas, job.policy.name) == (5, 8, "full")
    assert (job.task.stop, job.model.system) == (("a", "b"), "a=b")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.max_new_tokens", "--set 'task.max_new_tokens': expected section.field=value"),
        ("=5", "expected section.field=value"),
        ("task..x=5", "expected section.field=value"),
        ("name.x=5", "--set name.x: 'x' stands below 'papers', which has no fields"),
        ("task.stop=[", "--set task.stop: no valid YAML"),
        ("tsk.x=5", "tsk: unknown key; known here: name, model, source, task"),
        ("task.max_new_tokens=many", "task.max_new_tokens: Input should be a valid integer"),
    ],
)
def test_wrong_overrides_say_so(override, said, write):
    with pytest.raises(SpecError) as caught:
        JobSpec.load(write(MINIMAL), [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected sections (name, model, "),
        ("- a\n- b", "expected sections (name, model, "),
        ("name: [", "no valid YAML"),
        ("name: !!python/object/apply:os.getcwd []", "no valid YAML"),
        ("[" * 5000, "no valid YAML"),
        ("name: \x00", "no valid YAML"),
        ("a: !!int ''", "no valid YAML"),
        ("a: &a [*a]", "an alias stands inside what it stands for"),
        ("name: a\nmodel: {name: x, dtype: y, dtype: z}", "dtype given twice"),
    ],
)
def test_files_that_are_no_spec_say_so(text, said, write):
    path = write(text)
    with pytest.raises(SpecError) as caught:
        JobSpec.load(path)
    assert str(caught.value).startswith(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("path", ["no/such/job.yaml", "", ".", "gs://x/y"])
def test_no_file_says_so(path):
    with pytest.raises(SpecError, match="cannot read the spec"):
        JobSpec.load(path)


def test_a_file_that_is_no_utf8_says_so(tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SpecError, match=r"job\.yaml: cannot read the spec"):
        JobSpec.load(f"{tmp_path}/job.yaml")


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"model": {}}, "model.name: Field required"),
        ({"model": {"name": ""}}, "model.name: String should have at least 1 character"),
        ({"model": {"name": "m", "dtype": "int8"}}, "model.dtype: Input should be 'float32', 'bfloat16' or 'float16'"),
        ({"model": "m"}, "model: Input should be a valid dictionary"),
        ({"name": "a/b"}, "name: String should match pattern"),
        ({"source": {"name": "xml", "uri": "x"}}, "source.name: no source is called 'xml'; there are:\n  csv: "),
        ({"source": None}, "source: expected a mapping with a name, got None"),
        (
            {"task": {"name": "summarize", "overflow": "skip"}},
            "task.overflow: Input should be 'map_reduce', 'truncate'",
        ),
        ({"policy": {"name": "corm", "window": 0}}, "policy.window: "),
        ({"policy": {"name": "corn"}}, "policy.name: no policy is called 'corn'; there are:\n  "),
        ({"engine": {"page_size": "big"}}, "engine.page_size: Input should be a valid integer"),
        ({"cluster": {"replicas": 0}}, "cluster.replicas: Input should be greater than or equal to 1, got 0"),
        ({"cluster": {"replicas": "two"}}, "cluster.replicas: Input should be a whole number or {min, max}, got 'two'"),
        ({"cluster": {"replicas": {"min": 3, "max": 2}}}, "cluster.replicas: min is 3, more than max, which is 2"),
        ({"cluster": {"replicas": {"min": 0, "max": 2}}}, "cluster.replicas.min: Input should be greater than or"),
        ({"cluster": {"replicas": {"min": 1}}}, "cluster.replicas.max: Field required"),
        ({"verify": {"sample": 1}}, "verify.sample: unknown key; known here: share, on_difference, min_gap"),
        ({"cluster": {"replicas": {"max": 1, "most": 2}}}, "cluster.replicas.most: unknown key; known here: min, max"),
        ({"cluster": {"address": "http://user:pw@host"}}, "cluster.address: String should match pattern"),
        ({"output": {"uri": "ftp://x"}}, "output.uri: expected a local path or an s3:// URI, got 'ftp://x'"),
        (
            {"output": {"uri": "x", "format": "xml"}},
            "output.format: expected one of arrow, csv, jsonl, openai_batch, parquet, got 'xml'",
        ),
        (
            {"extra": 1},
            "extra: unknown key; known here: name, model, source, task, tasks, policy, engine, cluster, ",
        ),
        (
            {"engine": {"max_model_len": 100}, "task": {"name": "summarize", "max_new_tokens": 100}},
            "task.max_new_tokens: 100 leaves no",
        ),
        (
            {
                "policy": {"name": "corm", "pin_instruction": True},
                "task": {"name": "prompt", "template": "{{ title }}", "overflow": "truncate"},
            },
            "policy.pin_instruction: true, but nothing tells text from instruction",
        ),
        (
            {"engine": {"tensor_parallel": 4}, "cluster": {"gpus_per_replica": 2}},
            "cluster.gpus_per_replica: 2, but engine.tensor_parallel is 4",
        ),
        (
            {"model": {"name": "m", "device": "cuda"}, "cluster": {"gpus_per_replica": 0}},
            "cluster.gpus_per_replica: 0, but model.device is cuda",
        ),
        (
            {"task": {"name": "extract", "schema": {"type": "object", "properties": {"status": {"type": "string"}}}}},
            "task: status: every results table has a column of that name",
        ),
        ({"output": {"uri": "x", "columns": ["a", "output"]}}, "output.columns: output: every results table has a"),
        ({"output": {"uri": "x", "columns": ["a", "a"]}}, "output.columns: a: named twice"),
        ({"output": {"uri": "x", "columns": [""]}}, "output.columns.0: String should have at least 1 character"),
    ],
)
def test_what_is_wrong_is_said_with_path_value_and_what_is_allowed(sections, line):
    with pytest.raises(SpecError) as caught:
        spec(**sections)
    assert f"spec:\n{line}" in str(caught.value)


def test_every_problem_is_named_at_once():
    with pytest.raises(SpecError) as caught:
        spec(model={"name": "m", "dtyp": 1}, source={"name": "xml"}, cluster={"replicas": -1})
    assert all(path in str(caught.value) for path in ("model.dtyp", "source.name", "cluster.replicas"))


@pytest.mark.parametrize(
    "sections",
    [
        {"source": {"name": "parquet", "uri": "s3://KEY:SECRET@bucket/x"}},
        {"output": {"uri": "s3://KEY:SECRET@bucket/x"}},
        {"model": {"name": "s3://KEY:SECRET@bucket/x"}},
        {"cluster": {"address": "ray://KEY:SECRET@host:1"}},
        {"source": "s3://KEY:SECRET@bucket/x"},
    ],
)
def test_credentials_are_refused_and_not_repeated(sections):
    with pytest.raises(SpecError) as caught:
        spec(**sections)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "output", "refused"),
    [
        ("data", "data/answers", True),
        ("data", "data", True),
        ("data/answers/results", "data/answers", True),
        ("way", "data/answers", True),
        ("data/**", "data/answers", True),
        ("s3://b/data/", "s3://b/data/answers", True),
        ("data", "data-answers", False),
        ("data/in", "data", False),
        ("data/*.parquet", "data/answers", False),
    ],
)
def test_an_output_that_the_source_would_read_is_refused(source, output, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "way").symlink_to("data")
    sections = {**MINIMAL, "source": {"name": "parquet", "uri": source}, "output": {"uri": output}}
    if not refused:
        assert JobSpec.from_mapping(sections).source.uri.endswith(source)
        return
    with pytest.raises(SpecError, match=r"output\.uri: the source at .* would read what is written to ") as caught:
        JobSpec.from_mapping(sections)
    assert output in str(caught.value)
    assert source in str(caught.value)
    assert JobSpec.from_mapping({**sections, "source": {"name": "jsonl", "uri": source}})


def test_the_one_file_of_all_rows_is_none_that_the_source_would_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sections = {**MINIMAL, "source": {"name": "jsonl", "uri": "data"}}
    found = JobSpec.from_mapping({**sections, "output": {"uri": "data/out", "format": "csv"}}).output
    assert (found.part_format, found.whole_file) == ("parquet", f"{tmp_path}/data/out/results.csv")
    with pytest.raises(SpecError, match=r"would read what is written to .*data/out"):
        JobSpec.from_mapping({**sections, "output": {"uri": "data/out", "format": "jsonl"}})


def test_a_link_from_the_source_to_its_own_output_is_refused_before_it_is_read(tmp_path):
    for name in ("in/a.parquet", "out/results/part-0.parquet", "out/in/b.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"doc_id": ["a"], "text": ["x"]}), tmp_path / name)
    sections = {**MINIMAL, "output": {"uri": str(tmp_path / "out")}}
    for source in ("in", "out/in"):
        job = JobSpec.from_mapping({**sections, "source": {"name": "parquet", "uri": str(tmp_path / source)}})
        assert [split.num_rows for split in job.splits()] == [1]
    (tmp_path / "out/in/more").symlink_to(tmp_path / "out/results")
    with pytest.raises(SpecError, match=r"output\.uri: a link leads from the source .*/in/more/part-0\.parquet"):
        job.splits()


def test_relative_paths_count_from_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    source = {"name": "parquet", "uri": "in/*.parquet"}
    job = spec(model={"name": "models/tiny"}, source=source, output={"uri": "out"})
    assert job.model.name == f"{tmp_path}/models/tiny"
    assert job.source.uri == f"{tmp_path}/in/*.parquet"
    assert job.output.uri == f"{tmp_path}/out"
    assert not job.model.is_hub_id
    assert spec(model={"name": "./later"}).model.name == f"{tmp_path}/later"
    assert spec(model={"name": "org/model"}).model.is_hub_id
    assert not spec(model={"name": "s3://bucket/model"}).model.is_hub_id


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(string.printable, max_size=8)
    | st.dates()
    | st.binary(max_size=4)
    | st.sampled_from(["corm", "s3://a:b@c/d", "\ud800", "\0", "{{", "parquet", "extract", "512MiB", "../x"])
)
KEYS = st.sampled_from(
    [
        "name",
        "uri",
        "dtype",
        "schema",
        "properties",
        "type",
        "window",
        "stop",
        "template",
        "questions",
        "replicas",
        1,
        True,
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.none(), inner, max_size=4),
    max_leaves=8,
)
TASKS = st.fixed_dictionaries(
    {"name": st.sampled_from(["summarize", "question_answer", "extract", "prompt"])},
    optional=dict.fromkeys(["schema", "template", "questions", "question", "stop", "instruction", "seed"], VALUES),
)
SECTIONS = {**dict.fromkeys(JobSpec.model_fields, VALUES), "task": TASKS | VALUES}


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional=SECTIONS))
def test_anything_in_a_section_gives_a_spec_or_a_spec_error(sections):
    try:
        job = JobSpec.from_mapping({**MINIMAL, **sections})
    except SpecError:
        return
    assert JobSpec.from_mapping(yaml.safe_load(job.to_yaml())) == job


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a:-[]{}&*!|>'\"%@`#?, \n\t1.", max_size=40))
def test_any_text_gives_a_spec_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError):
        JobSpec.load(str(path))


@pytest.mark.parametrize("name", ["summarize.yaml", "nightly.yaml"])
def test_shipped_jobs_load(name):
    job = JobSpec.load(str(JOBS / name))
    assert job.model.name == "meta-llama/Llama-3.1-8B-Instruct"
    assert job.output.uri.startswith("s3://")
    assert JobSpec.from_mapping(yaml.safe_load(job.to_yaml())) == job


def test_a_share_of_none_is_no_verification_and_the_least_gap_is_written_out():
    assert spec(verify={"share": 0, "on_difference": "rerun"}) == spec()
    verified = spec(verify={"share": "5%", "stop_above": "5%"}, model={"name": "org/model", "dtype": "float32"})
    assert verified.verify == VerifyConfig(share=0.05, stop_above=0.05, min_gap=MIN_GAP["float32"])
    assert JobSpec.from_mapping(yaml.safe_load(verified.to_yaml())) == verified


def test_a_guard_that_could_never_tell_is_refused():
    task = {"name": "summarize", "temperature": 0.7}
    assert spec(task=task, verify={"share": 1}).verify.on_difference == "flag"
    for field, value in (("on_difference", "rerun"), ("stop_above", 0.05)):
        with pytest.raises(SpecError, match=rf"verify\.{field}: .*{value}.*, but task\.temperature is 0\.7"):
            spec(task=task, verify={"share": 1, field: value})


SEVERAL = {"summary": {"name": "summarize"}, "asked": {"name": "question_answer", "questions_column": "q"}}


def test_several_tasks_are_one_with_columns_of_their_names(write):
    sections = {name: section for name, section in MINIMAL.items() if name != "task"}
    whole = yaml.safe_dump({**sections, "tasks": SEVERAL}, sort_keys=False)
    job = JobSpec.load(write(whole), ["tasks.summary.max_new_tokens=700"])
    assert [field.name for field in job.task.result_fields][:3] == ["summary", "asked", "asked_questions"]
    assert (job.task.max_new_tokens, job.task.source_columns) == (700, ("q",))
    text = job.to_yaml()
    assert JobSpec.load(write(text)) == job
    assert "task" not in yaml.safe_load(text)
    assert "tasks" not in yaml.safe_load(spec().to_yaml())
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": SEVERAL}, "task and tasks: exactly one of them"),
        ({"task": None, "tasks": {"output": {"name": "summarize"}}}, "task: output: every results table has a column"),
        ({"task": None, "tasks": {"a": {"name": "summarize", "max_new_tokens": 99}}, "engine": {"max_model_len": 64}},
         r"task.max_new_tokens: 99 leaves no prompt room"),
        ({"task": None, "tasks": {"a": {"name": "summarize", "temperature": 1}}, "verify": {"on_difference": "rerun"}},
         "task.temperature is 1"),
        ({"task": None, "tasks": {"a": {"name": "prompt", "template": "Hi", "overflow": "error"}},
          "policy": {"name": "corm", "pin_instruction": True}}, "nothing tells text from instruction"),
    ],
)  # fmt: skip
def test_several_tasks_that_cannot_be_are_refused(changes, said):
    with pytest.raises(SpecError, match=said):
        spec(**changes)


def test_a_fallback_is_another_policy_than_the_job_s():
    assert spec(fallback="full").fallback == "full"
    with pytest.raises(SpecError, match=r"fallback: full, but policy.name is full"):
        spec(fallback="full", policy={"name": "full"})
    with pytest.raises(SpecError, match=r"fallback: Input should be 'full', got 'corm'"):
        spec(fallback="corm")
