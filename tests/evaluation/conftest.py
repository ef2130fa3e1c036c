"""Facts are drawn with the words of the books that the training recipe's tests read; a tiny model answers."""

import pytest

from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Completion
from corm_batch.text.tokenize import PromptTokenizer
from tests.infra.training.conftest import books, text, tokenizer, words

__all__ = ["books", "text", "tokenizer", "words"]


@pytest.fixture(scope="session")
def chat(tiny_model):
    return PromptTokenizer.from_pretrained(tiny_model, document_role="document")


@pytest.fixture
def load(chat):
    """Loads a job's model under the job's policy, as evaluations do; `load.jobs` holds the jobs."""

    def call(job):
        call.jobs.append(job)
        config = job.engine.model_dump() | {"kv_memory": "32MiB"}
        return Engine.from_pretrained(job.model.name, policy=job.policy, dtype="float32", device="cpu", **config), chat

    call.jobs = []
    return call


class QuickEngine:
    """Answers everything with the same two tokens."""

    def run(self, requests):
        memory = MemoryStats(kv_bytes_full=100, kv_bytes_peak=60)
        yield from [Completion(request.id, (5, 6), "stop", memory=memory) for request in requests]

    def close(self):
        pass


@pytest.fixture
def quick_load(chat):
    """As `load`, with an engine that takes no time."""

    def call(job):
        call.jobs.append(job)
        return QuickEngine(), chat

    call.jobs = []
    return call
