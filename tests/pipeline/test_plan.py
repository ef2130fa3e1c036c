"""plan_job: what it counts and how it estimates, on a model that has no weights."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from corm_batch.data.schema import result_schema
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.memory import pool_bytes
from corm_batch.errors import ModelLoadError, SpecError
from corm_batch.output.settings import AnswerSettings
from corm_batch.pipeline import plan
from corm_batch.pipeline.model import revision_hash
from corm_batch.pipeline.plan import Quantiles, plan_job
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer

MODEL = Path(__file__).parents[2] / "jobs/quickstart/model"
# keys and values, 10 layers, 6 kv heads of width 64, 4 bytes
BYTES_PER_TOKEN = 2 * 10 * 6 * 64 * 4


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
    assert (planned.chars_per_token, planned.chars_per_token_measured) == (4.0, False)
    assert planned.tokens == Quantiles(p50=1000, p99=1001, max=1001)
    assert planned.histogram == ((128, 1), (256, 0), (512, 0), (1024, 2))
    assert planned.kv_bytes_per_token == BYTES_PER_TOKEN
    assert planned.kv_bytes.max == 1101 * BYTES_PER_TOKEN
    mean = (200 + 1100 + 1101) / 3 * BYTES_PER_TOKEN
    assert planned.documents_at_once[0] == (1.0, 40 * 2**20 // mean)
    assert planned.documents_at_once[1] == (0.5, 40 * 2**20 // (mean / 2))


def test_tokens_are_estimated_by_the_models_own_rate(job):
    planned = plan_job(job(["The quick brown fox jumps over the lazy dog. " * 50] * 3))
    assert planned.chars_per_token_measured
    assert 2.5 < planned.chars_per_token < 6
    assert planned.tokens.max == pytest.approx(2250 / planned.chars_per_token, abs=1)


def test_pool_of_a_cpu_is_known_and_that_of_a_gpu_is_not(job):
    def pool(device, **engine):
        model = {"name": str(MODEL), "dtype": "float32", "device": device}
        return plan_job(job(["x" * 400_000], model=model, engine=engine)).pool_bytes

    assert pool("cpu") == pool_bytes(EngineConfig(), torch.device("cpu"))
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
            "fingerprint": AnswerSettings.of(spec, revision_hash(spec.model)).fingerprint,
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
