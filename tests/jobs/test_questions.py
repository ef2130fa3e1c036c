"""The job that asks sixteen things of a document: all of them over one reading."""

from pathlib import Path

import pytest

from corm_batch.data.document import Document
from corm_batch.engine.shape import ModelShape
from corm_batch.pipeline.model import load_tokenizer
from corm_batch.pipeline.prompts import ask_nobody
from corm_batch.spec import JobSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def job():
    return JobSpec.load(str(ROOT / "jobs/questions/job.yaml"), [f"model.name={ROOT / 'jobs/quickstart/model'}"])


def test_a_document_is_read_once_and_each_question_adds_itself(job):
    tokenizer, shape = load_tokenizer(job.model, job.model.name), ModelShape.from_pretrained(job.model.name)
    text = "The winter palace was closed that year. " * 100
    (asked,) = ask_nobody(job, [Document("a", text)], tokenizer, shape, 60)
    assert (len(asked.tokens), asked.refusal) == (16, None)
    assert asked.whole > 800
    assert asked.whole < sum(asked.tokens) < 1.4 * asked.whole


def test_a_long_document_is_read_once_window_by_window(job):
    tokenizer, shape = load_tokenizer(job.model, job.model.name), ModelShape.from_pretrained(job.model.name)
    job = job.model_copy(update={"engine": job.engine.model_copy(update={"max_model_len": 512})})
    text = "The winter palace was closed that year. " * 100
    (asked,) = ask_nobody(job, [Document("a", text)], tokenizer, shape, 60)
    assert asked.too_long
    windows = sum(tokens > 256 for tokens in asked.tokens)
    assert 2 <= windows <= 4
    assert len(asked.tokens) == 16 * windows + 1  # the windows' summaries are summed up


def test_its_columns_are_named_by_its_tasks(job):
    names = [field.name for field in job.task.result_fields]
    assert [name for name in names if "_" not in name] == ["summary", "asked", "facts"]
    assert sum(name.startswith("facts_") for name in names) == 10
    assert {"asked_questions", "asked_answers"} <= set(names)
