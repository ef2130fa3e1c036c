"""plan_job: what it counts and how it estimates, on a model that has no weights."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.data.render import Renderer
from corm_batch.data.schema import result_schema
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.open import Engine
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import ModelLoadError, SpecError
from corm_batch.output.settings import AnswerSettings
from corm_batch.pipeline import plan, plan_gpu
from corm_batch.pipeline.model import answers_version, revision_hash
from corm_batch.pipeline.plan import Quantiles, plan_job
from corm_batch.pipeline.worker import EngineActor, Model, WorkerSettings
from corm_batch.spec import JobSpec
from corm_batch.tasks import prompt
from corm_batch.text.tokenize import PromptTokenizer

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "jobs/quickstart/model"
QUICKSTART = {"name": str(MODEL), "dtype": "float32", "device": "cpu"}
# keys and values, 10 layers, 6 kv heads of width 64, 4 bytes
WIDTH = 64
BYTES_PER_TOKEN = 2 * 10 * 6 * WIDTH * 4


@pytest.fixture
def job(tmp_path, model_without_weights):
    """Call with texts and changes to the spec; returns the JobSpec."""

    def make(texts, **sections):
        rows = [{"doc_id": f"d{number}", "text": text} for number, text in enumerate(texts)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents.parquet", row_group_size=10)
        spec = {
            "name": "test",
            "model": {"name": str(model_without_weights), "dtype": "float32", "device": "cpu"},
            "source": {"name": "parquet", "uri": str(tmp_path / "documents.parquet")},
            "task": {"name": "summarize", "max_new_tokens": 100},
            "output": {"uri": str(tmp_path / "out")},
        }
        return JobSpec.from_mapping(spec | sections)

    return make


@pytest.fixture
def four_characters_a_token(monkeypatch):
    def no_tokenizer(*args, **kwargs):
        raise ModelLoadError("none")

    monkeypatch.setattr(PromptTokenizer, "from_pretrained", no_tokenizer)


@pytest.mark.usefixtures("four_characters_a_token")
def test_sizes_without_a_tokenizer(job):
    planned = plan_job(job(["x" * 400, "x" * 4000, "x" * 4001], engine={"kv_memory": "40MiB"}))
    assert (planned.tokenized, planned.exact, planned.first_prompt) == (0, False, None)
    assert (planned.prompts, planned.prompt_tokens) == (3, 2101)
    assert planned.tokens == Quantiles(p50=1000, p99=1001, max=1001)
    assert planned.histogram == ((128, 1), (256, 0), (512, 0), (1024, 2))
    assert planned.kv_bytes_per_token == BYTES_PER_TOKEN
    assert planned.kv_bytes.max == 1101 * BYTES_PER_TOKEN
    mean = (200 + 1100 + 1101) / 3 * planned.page_bytes_per_token
    assert planned.documents_at_once[0] == (1.0, 40 * 2**20 // mean)
    assert planned.documents_at_once[1] == (0.5, 40 * 2**20 // (mean / 2))


@pytest.mark.usefixtures("four_characters_a_token")
def test_pages_take_what_the_form_of_storage_takes(job):
    plain, stored = (plan_job(job(["x" * 4000], engine={"storage": name})) for name in ("model", "fp8"))
    assert plain.kv_bytes_per_token == stored.kv_bytes_per_token == BYTES_PER_TOKEN
    heads, rest = BYTES_PER_TOKEN // (2 * 4 * WIDTH), 12  # position, expiry, what queries found
    assert plain.page_bytes_per_token == heads * (2 * 4 * WIDTH + rest)
    assert stored.page_bytes_per_token == heads * (2 * WIDTH + 2 * 4 + rest)
    assert stored.documents_at_once > plain.documents_at_once


SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}, "year": {"type": "integer"}}}
TASKS = {
    "summarize": {"name": "summarize", "overflow": "truncate"},
    "question_answer": {"name": "question_answer", "question_column": "question", "overflow": "map_reduce"},
    "together": {"name": "extract", "schema": SCHEMA, "overflow": "map_reduce", "retries": 0},
    "each": {
        "name": "extract",
        "schema": SCHEMA,
        "ask": "each",
        "questions": {"key": "What is the pass key?", "year": "Which year is it?"},
    },
    "prompt": {
        "name": "prompt",
        "template": "{{ text }}\nTitle: {{ title }}. Kind: {{ kind }}?",
        "overflow": "truncate",
    },
    "too_long": {"name": "prompt", "template": "{{ text }}", "overflow": "error"},
}


PIECES = {  # prompts about each of the three
    "summarize": (1, 1, 1),
    "question_answer": (2, 1, 1),
    "together": (2, 1, 1),
    "each": (4, 2, 2),
    "prompt": (1, 1, 1),
    "too_long": (0, 1, 1),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("role", ["user", "document"])
def test_prompt_tokens_are_those_of_the_run(task, role, job, rows, tmp_path):
    """Of quick start documents, one of them longer than the context: every task's prompts as a replica asks them."""
    spec = job([], task={**TASKS[task], "max_new_tokens": 4}, model={**QUICKSTART, "document_role": role})
    table = pq.read_table(ROOT / "jobs/quickstart/documents.parquet")
    pq.write_table(table.take([24, 27, 21]), tmp_path / "documents.parquet")

    def load():
        tokenizer = PromptTokenizer.from_pretrained(MODEL, document_role=role)
        return Model(engine=ScriptedEngine(tokenizer.decode, max_model_len=8192), tokenizer=tokenizer, pool_tokens=4096)

    actor = EngineActor(WorkerSettings(load, spec.task, rows, 60.0))

    async def run():
        await actor.load()
        (split,) = spec.source.splits(spec.task.source_columns)
        return [await actor.process(document) for document in spec.source.read(split, spec.task.source_columns)]

    done = asyncio.run(run())
    planned = plan_job(spec)
    assert planned.prompt_tokens == sum(row.result["prompt_tokens"] or 0 for row in done) > 0
    assert (planned.exact, planned.tokenized, planned.too_long, planned.from_answers) == (True, 3, 1, 0)
    assert planned.prompts == sum(PIECES[task])


def test_windows_leave_the_room_that_a_policy_reads_behind_them_as_in_the_run(job, rows):
    limits, kvzip = {"max_model_len": 512, "kv_memory": 1 << 26}, {"name": "kvzip", "chunk": 64}
    task = {"name": "question_answer", "questions": ["Who?", "When, and where?"], "overflow": "map_reduce"}
    text = "The winter palace was closed that year. " * 120
    spec = job([text], task={**task, "max_new_tokens": 4}, model=QUICKSTART, policy=kvzip, engine=limits)
    engine = Engine.from_pretrained(str(MODEL), policy=kvzip, dtype="float32", device="cpu", **limits)

    def run(least_room):
        tokenizer = PromptTokenizer.from_pretrained(MODEL)
        scripted = ScriptedEngine(tokenizer.decode, max_model_len=512)
        actor = EngineActor(
            WorkerSettings(lambda: Model(scripted, tokenizer, 4096, least_room=least_room), spec.task, rows, 60.0)
        )

        async def process():
            await actor.load()
            (split,) = spec.source.splits(spec.task.source_columns)
            return [await actor.process(document) for document in spec.source.read(split, spec.task.source_columns)]

        (row,) = asyncio.run(process())
        return row.result["prompt_tokens"]

    assert plan_job(spec).prompt_tokens == run(engine.least_room) > run(0)


def test_documents_answered_before_are_not_read_again_and_summaries_of_summaries_are_guessed(job):
    texts = ["A sentence of the story. " * 300, "Short."]
    planned = plan_job(job(texts, task={"name": "summarize", "max_new_tokens": 50}, engine={"max_model_len": 500}))
    assert (planned.from_answers, planned.too_long) == (1, 1)
    assert planned.prompts > 5


def test_prompts_of_many_documents_are_estimated_from_some(job, monkeypatch):
    texts = ["The quick brown fox jumps over the lazy dog. " * (1 + number % 17) for number in range(90)]
    exact = plan_job(job(texts))
    monkeypatch.setattr(plan, "_TOKENIZED_CHARS", sum(map(len, texts)) // 3)
    planned = plan_job(job(texts))
    assert (exact.exact, exact.tokenized, planned.exact) == (True, 90, False)
    assert 10 < planned.tokenized < 40
    assert planned.prompt_tokens == pytest.approx(exact.prompt_tokens, rel=0.01)
    assert planned.prompts == exact.prompts == 90
    assert planned.tokens.max == pytest.approx(exact.tokens.max, rel=0.02)


def test_it_says_why_nothing_is_asked_about_a_document(job):
    task = {"name": "prompt", "template": "{{ 1 / (4 - text | length) }}", "overflow": "truncate"}
    planned = plan_job(job(["four", "a text", "text"], task=task))
    (refusal,) = planned.refused
    assert (refusal.documents, refusal.doc_id, planned.prompts) == (2, "d0", 1)
    assert refusal.origin.endswith("documents.parquet#0:0")
    assert refusal.reason == "task.template cannot be rendered: ZeroDivisionError: division by zero"
    longer = plan_job(
        job(
            ["a " * 90, "b"],
            task={"name": "summarize", "overflow": "error", "max_new_tokens": 9},
            engine={"max_model_len": 90},
        )
    )
    assert [(refusal.documents, refusal.doc_id) for refusal in longer.refused] == [(1, "d0")]
    assert "task.overflow is 'error'" in longer.refused[0].reason


def test_it_says_where_what_is_pinned_cannot_stay_and_counts_it_where_it_can(job):
    policy = {"name": "snapkv", "recent": 4, "pin_instruction": True, "budget": {"name": "uniform", "max_kept": 30}}
    task = {"name": "question_answer", "question": "Who?", "max_new_tokens": 9}
    planned = plan_job(job(["word " * 90, "a b"], task=task, policy=policy))
    (refusal,) = planned.refused
    assert "tokens of the prompt are pinned (policy.pin_first, policy.pin_instruction)" in refusal.reason
    assert (refusal.documents, refusal.doc_id, planned.prompts) == (2, "d0", 0)
    wide = policy | {"budget": {"name": "pyramidkv", "max_kept": 60}}
    fits = job(["word " * 400, "a b"], task=task, policy=wide)
    assert (plan_job(fits).refused, plan_job(fits).prompts) == ((), 2)
    shape = ModelShape.from_pretrained(fits.model.name)
    assert plan_gpu._most_kept(fits.policy, shape, 400, 40) == pytest.approx(60 / 400, rel=0.02)


def test_templates_take_it_a_bounded_time_in_all(job, monkeypatch):
    monkeypatch.setattr(plan, "_ASKING_S", 0.4)
    monkeypatch.setattr(prompt, "_RENDERER", renderer := Renderer(limit_s=0.3))
    renderer.render("", {})  # the process is there
    slow = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    template = "{% if text == 'slow' %}" + slow + "{% endif %}"
    task = {"name": "prompt", "template": template, "overflow": "truncate"}
    began = time.monotonic()
    planned = plan_job(job(["slow"] * 30, task=task))
    assert time.monotonic() - began < 10, "30 documents may take 0.3 s each, and as long again to start a process"
    assert planned.refused[0].reason.endswith("cannot be rendered: it takes more than 0.3 s or 1024 MiB")
    assert 1 <= planned.tokenized < 30
    assert not planned.exact
    renderer.close()


def test_the_first_prompt_is_what_the_model_sees(job):
    shown = plan_job(job([None, "One line."])).first_prompt
    assert shown.startswith("<|question|> One line.\n\nSummarise the document above")
    assert shown.endswith("<|answer|>")
    assert plan_job(job([None])).first_prompt is None


def test_a_card_by_its_name_or_none(job):
    assert plan_job(job(["text"])).gpu is None
    found = plan_job(
        job(["text " * 500] * 4, policy={"name": "corm", "budget": {"name": "pyramidkv", "max_kept": 256}}), "h100"
    ).gpu
    assert (found.name, len(found.rows)) == ("h100", 1)
    assert 0.3 < found.rows[0].kept_ratio < 0.6
    assert found.behind_hours == 0
    with pytest.raises(SpecError, match="known: a10"):
        plan_job(job(["text"]), "h9")


def test_what_a_policy_has_read_behind_prompts_is_in_the_hours(job):
    budget = {"name": "adakv", "max_kept": 0.25, "floor": 0}
    texts = ["text " * 500] * 4

    def hours(texts, policy, **fields):
        found = plan_job(job(texts, policy={"name": policy, "budget": budget, **fields}), "h100").gpu
        return found.rows[0].hours, found.behind_hours

    snapkv, none = hours(texts, "snapkv")
    kvzip, behind = hours(texts, "kvzip", chunk=128)
    assert none == 0
    assert 0 < behind == pytest.approx(kvzip - snapkv)


def test_questions_over_one_reading_count_it_once_and_are_held_together(job):
    questions = ["Who?", "When was it?", "Where, and why there of all places?"]
    policy = {"name": "corm", "budget": {"name": "uniform", "max_kept": 500}}
    task = {"name": "question_answer", "max_new_tokens": 9}
    text = "The winter palace was closed that year. " * 250

    def planned(texts, asked, **sections):
        return plan_job(job(texts, task={**task, **asked}, policy=policy, **sections), "h100")

    alone = [planned([text], {"question": question}, verify={"share": 1.0}) for question in questions]
    together = planned([text], {"questions": questions}, verify={"share": 1.0})
    beginning = alone[0].prompt_tokens
    added = together.prompt_tokens - beginning
    assert 0 < added < 60 < 2000 < beginning
    assert together.verify_tokens == sum(one.verify_tokens for one in alone)
    held = together.prompt_tokens + 3 * 9
    assert together.kv_bytes.max == held * together.kv_bytes_per_token
    assert alone[0].kv_bytes.max == (beginning + 9) * together.kv_bytes_per_token
    row, first = together.gpu.rows[0], alone[0].gpu.rows[0]
    assert row.kept_ratio == pytest.approx(first.kept_ratio, rel=0.05)
    assert 0.2 < row.kept_ratio < 0.4
    assert first.hours < row.hours < 0.8 * sum(one.gpu.rows[0].hours for one in alone)


def test_questions_of_many_documents_are_estimated_from_some(job, monkeypatch):
    texts = ["The quick brown fox jumps over the lazy dog. " * (20 + number % 17) for number in range(40)]
    task = {"name": "question_answer", "questions": ["Who?", "When?", "Where?"], "max_new_tokens": 9}
    exact = plan_job(job(texts, task=task, verify={"share": 0.5}))
    monkeypatch.setattr(plan, "_TOKENIZED_CHARS", sum(map(len, texts)) // 3)
    some = plan_job(job(texts, task=task, verify={"share": 0.5}))
    assert (exact.exact, some.exact, some.prompts) == (True, False, 120)
    for figure in ("prompt_tokens", "verify_tokens"):
        assert getattr(some, figure) == pytest.approx(getattr(exact, figure), rel=0.02)
    assert some.kv_bytes.p50 == pytest.approx(exact.kv_bytes.p50, rel=0.02)


def test_pool_of_a_cpu_is_known_and_that_of_a_gpu_is_not(job):
    def pool(device, **engine):
        model = {"name": str(MODEL), "dtype": "float32", "device": device}
        return plan_job(job(["x" * 400_000], model=model, engine=engine)).pool_bytes

    assert pool("cpu") == EngineConfig().pool_bytes("cpu")
    assert pool("cpu", kv_memory="40MiB") == pool("cuda", kv_memory="40MiB") == 40 * 2**20
    assert pool("cuda") is None


def test_at_most_max_sequences_at_once(job):
    planned = plan_job(job(["a short text"], engine={"max_sequences": 3}))
    assert planned.documents_at_once == ((1.0, 3), (0.5, 3), (0.25, 3), (0.1, 3))


@pytest.mark.usefixtures("four_characters_a_token")
def test_a_document_longer_than_the_context_costs_one_context(job):
    planned = plan_job(job(["x" * 40, "x" * 400_000], engine={"max_model_len": 2000}))
    assert planned.too_long == 1
    assert planned.max_model_len == 2000
    assert planned.tokens.max == 100_000
    assert planned.kv_bytes.max == 2000 * BYTES_PER_TOKEN


def test_counts_of_rows(job):
    planned = plan_job(job(["a text"] * 24 + [None]))
    assert (planned.files, planned.splits, planned.documents, planned.measured) == (1, 3, 25, 25)
    assert (planned.unusable, planned.todo, planned.done) == (1, 25, 0)
    assert planned.prompts == 24


def test_a_repeated_id_is_no_document_to_ask_about(job):
    spec = job(["a text"] * 3)
    rows = [{"doc_id": doc_id, "text": "a text"} for doc_id in ("a", "b", "a")]
    pq.write_table(pa.Table.from_pylist(rows), spec.source.uri)
    planned = plan_job(spec)
    assert (planned.unusable, planned.todo, planned.prompts) == (1, 3, 2)


def test_rows_that_are_none_to_ask_about_say_why_those_of_one_reason_together(job, tmp_path):
    uri = str(tmp_path / "rows.parquet")
    rows = [("a", "text", "1"), ("b", None, "1"), ("c", "text", "it's"), ("d", "text", '"x"')]
    rows += [("a", "text", "1"), ("b", "text", "1")]
    pq.write_table(pa.Table.from_pylist([{"doc_id": one, "text": text, "n": n} for one, text, n in rows]), uri)
    planned = plan_job(job(["a text"], source={"name": "parquet", "uri": uri, "filter": "n > 0"}))
    assert planned.unusable == 6
    assert [(one.documents, one.doc_id, one.reason.partition(" (")[0]) for one in planned.refused] == [
        (3, "a", "source.filter cannot be held against n = '1'"),
        (2, f"{uri}#0:4", f"an earlier row has the id 'a' too; this one is {uri}#0:4 and was not answered"),
        (1, "b", "column 'text' is null"),
    ]


def test_no_usable_document(job):
    planned = plan_job(job([None, ""]))
    assert (planned.unusable, planned.histogram, planned.tokens) == (2, (), Quantiles(0, 0, 0))


def test_documents_an_earlier_run_answered(job):
    spec = job(["first", "second", "third", "fourth"])
    documents = [document for split in spec.source.splits() for document in spec.source.read(split, ())]
    rows = [
        {
            "doc_id": document.doc_id,
            "content_sha256": content,
            "fingerprint": AnswerSettings.of(spec, revision_hash(spec.model), answers_version(spec, None)).fingerprint,
            "run_id": "r",
            "status": status,
            "committed_at": datetime.now(UTC),
        }
        for document, content, status in [
            (documents[0], documents[0].content_sha256, "ok"),
            (documents[1], documents[1].content_sha256, "failed"),
            (documents[2], "of an older text", "ok"),
        ]
    ]
    results = Path(spec.output.uri) / "results"
    results.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=result_schema([], {})), results / "part-r-000000.parquet")
    planned = plan_job(spec)
    assert (planned.done, planned.failed_before, planned.todo) == (1, 1, 2)
    assert planned.prompts == 2
    assert planned.earlier == ()


def test_a_large_archive_is_sampled_from_all_over_it(job, monkeypatch):
    monkeypatch.setattr(plan, "_MEASURED", 12)
    monkeypatch.setattr(plan, "_SPLITS_MEASURED", 4)
    planned = plan_job(job([f"{number} " * (number + 1) for number in range(60)]))
    assert planned.documents == 60
    assert planned.measured == 12
    assert planned.tokens.max > 40, "the last of the measured splits holds long documents"


def test_broken_and_empty_files_are_what_a_run_would_say_of_them(job, tmp_path):
    spec = job(["text"], source={"name": "jsonl", "uri": str(tmp_path / "in")})
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(b'{"doc_id": "a", "text": "x"}\n')
    (tmp_path / "in/b.jsonl").write_bytes(b'{\n "doc_id": "b",\n "text": "x"\n}\n')
    (tmp_path / "in/c.jsonl").write_bytes(b"")
    planned = plan_job(spec)
    ((uri, error),) = [(file.uri, file.error) for file in planned.failed_files]
    assert uri == f"{tmp_path}/in/b.jsonl"
    assert "jq -c ." in error
    assert (planned.empty_files, planned.measured) == ((f"{tmp_path}/in/c.jsonl",), 1)
    (tmp_path / "in/a.jsonl").unlink()
    assert (plan_job(spec).failed_files, plan_job(spec).measured) == (planned.failed_files, 0)


def test_missing_column_and_missing_model(job, tmp_path):
    with pytest.raises(SpecError, match="question"):
        plan_job(job(["text"], task={"name": "question_answer", "question_column": "question"}))
    with pytest.raises(ModelLoadError, match=r"model\.name"):
        plan_job(job(["text"], model={"name": str(tmp_path)}))


def test_what_verification_would_read(job):
    documents = ["a text " * 50] * 20
    plain, verified = plan_job(job(documents)), plan_job(job(documents, verify={"share": 0.1}))
    assert (plain.verify_tokens, verified.prompt_tokens) == (0, plain.prompt_tokens)
    answers = plain.prompts * job(documents).task.max_new_tokens
    assert verified.verify_tokens == round((plain.prompt_tokens + answers) / 10)
