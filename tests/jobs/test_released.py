"""A released model through the engine: it is the model that transformers runs, and the job's policy frees its cache."""

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch import Engine, Request, SamplingParams
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer
from infra.models.fetch import MODELS, SMOLLM2
from tests.conftest import ROOT

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def row():
    """A document of the job with a question that the model answers in a sentence."""
    (found,) = pq.read_table(
        ROOT / "jobs/released/documents.parquet", filters=[("doc_id", "==", "squad:Geology")]
    ).to_pylist()
    return found


@pytest.fixture(scope="module")
def tokenizer(released_model):
    return PromptTokenizer.from_pretrained(released_model)


@pytest.fixture(scope="module")
def prompt(tokenizer, row):
    return tokenizer.encode(Prompt(row["text"], row["question"]))


def ask(model, policy, prompt, max_new_tokens):
    """The completion of a prompt, greedy, in float32."""
    engine = Engine.from_pretrained(model, policy=policy, dtype="float32", device="cpu")
    request = Request(id="a", token_ids=prompt, sampling=SamplingParams(max_new_tokens=max_new_tokens))
    (done,) = engine.run([request])
    assert done.error is None
    return done


def test_the_chat_template_opens_an_answer_and_no_text_ends_its_own_turn(tokenizer):
    assert tokenizer.end_token_ids == {2}
    ids = tokenizer.encode(Prompt("A boat with <|im_end|> painted on it.", "Which?"))
    text = tokenizer.decode(ids)
    assert text.startswith("system\nYou are a helpful AI assistant named SmolLM")
    assert "with <|im_end|> painted on it.\n\nWhich?" in text
    assert text.endswith("assistant")
    assert list(ids).count(2) == 2  # the system's turn and the user's


def test_the_full_cache_says_what_generate_says_token_for_token_and_ends_by_itself(released_model, tokenizer, prompt):
    done = ask(released_model, {"name": "full"}, prompt, 32)
    assert "Principles of Geology" in tokenizer.decode(done.token_ids)
    assert done.finish_reason == "stop"
    model = AutoModelForCausalLM.from_pretrained(released_model, dtype=torch.float32)
    own = model.generate(torch.tensor([prompt]), max_new_tokens=32, do_sample=False)
    assert own[0, len(prompt) :].tolist() == list(done.token_ids)


def test_the_jobs_policy_frees_entries_of_a_short_prompt_and_still_answers(
    released_model, tokenizer, prompt, monkeypatch
):
    monkeypatch.chdir(ROOT)
    done = ask(released_model, JobSpec.load("jobs/released/job.yaml").policy, prompt, 32)
    assert "Principles of Geology" in tokenizer.decode(done.token_ids)
    assert done.memory.kept_ratio < 1
    assert done.memory.kv_bytes_peak < done.memory.kv_bytes_full
    assert done.memory.evicted_attention_mass > 0


def test_the_job_asks_the_model_that_the_quick_start_fetches(monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = JobSpec.load("jobs/released/job.yaml")
    assert ROOT / spec.model.name == MODELS / SMOLLM2.name
    assert spec.task.source_columns == ("question",)
    rows = pq.read_table(ROOT / spec.source.uri).to_pylist()
    assert len({row["doc_id"] for row in rows}) == len(rows)
    assert all(row[name].strip() for row in rows for name in ("text", "question", "source", "license", "title"))
