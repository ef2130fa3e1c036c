"""Races without a model: the full cache answers as scripted, and policies lose what a table says."""

from __future__ import annotations

from functools import cache

from corm_batch.calibration.contest import FULL
from corm_batch.calibration.loss import MaxLoss
from corm_batch.calibration.race import Race
from corm_batch.calibration.result import Calibration, Loss, Tried
from corm_batch.calibration.run import Plan
from corm_batch.calibration.sample import draw
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.request import Completion, Scores
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.errors import CapacityError
from corm_batch.evaluation.answers import AnswerStore
from corm_batch.policies.base import KVPolicy
from corm_batch.text.tokenize import PromptTokenizer
from tests.conftest import REFERENCE_MODEL

MINUTE = "Nobody came to the river that year, and the ferry lay under the trees. "


@cache
def load_tokenizer():
    return PromptTokenizer.from_pretrained(str(REFERENCE_MODEL), document_role="document")


class Table:
    """What scores: `lose(label, doc_id)` nats a token; every policy holds its share of the bytes."""

    max_model_len = 512

    def __init__(self, lose, shares, now=None, seconds=0.0):
        self.tokenizer = load_tokenizer()
        self.lose, self.shares = lose, {FULL: 1.03, **shares}
        self.now, self.seconds = now, seconds
        self.scored, self.engines = [], 0

    def full(self):
        self.engines += 1
        return ScriptedEngine(self.tokenizer.decode)

    def score(self, policies, requests):
        for request in requests:
            if self.now is not None:
                self.now[0] += self.seconds
            doc_id = request.id.partition("#")[0]
            self.scored.append((doc_id, tuple(policies)))
            yield request, {label: self._scored(label, doc_id, request) for label in policies}

    def _scored(self, label, doc_id, request):
        lost = 0.0 if label == FULL else self.lose(label, doc_id)
        if lost is None:
            return Completion(request.id, (), "error", CapacityError("no room", bytes_needed=2, bytes_available=1))
        count = len(request.answer_ids)
        full = 1000 * (len(request.token_ids) + count)
        memory = MemoryStats(
            prompt_tokens=len(request.token_ids), output_tokens=count, kv_bytes_full=full,
            kv_bytes_peak=int(full * self.shares[label]), prefill_s=1.0, decode_s=1.0,
        )  # fmt: skip
        scores = Scores((-0.5 - lost,) * count, (-0.5 - min(0.0, lost),) * count)
        return Completion(request.id, tuple(request.answer_ids), "length", None, -0.5, memory, scores=scores)


def make_race(job, table, folder, count=24, **plan):
    """A race and its plan: `count` documents, the policies of the table."""
    spec = job({f"d{i:02}": f"Number {i}. {MINUTE * (1 + i % 3)}" for i in range(count)})
    policies = {
        label: KVPolicy.from_spec({"name": "snapkv", "budget": {"name": "uniform", "max_kept": 100 + place}})
        for place, label in enumerate(table.shares)
        if label != FULL
    }
    race = Race(spec, "hash", policies, table, table.tokenizer, AnswerStore(str(folder)))
    fields = {label: policy.to_spec() for label, policy in policies.items()}
    settings = {"minutes": 10.0, "shared_pass": True, "command": "corm-batch calibrate job.yaml", **plan}
    return Plan(MaxLoss.parse("1%"), draw(spec, count, "seed"), {}, fields, **settings), race


def make_result(chosen="snapkv pooled", **fields):
    """A calibration of four policies beside the full cache."""

    def loss(mean, documents=8, width=0.004):
        return Loss(documents=documents, mean=mean, low=mean - width, high=mean + width)

    def tried(label, state, ratio, **more):
        return Tried(label=label, policy={"name": "snapkv", "pooling": 63}, state=state, peak_ratio=ratio,
                     documents_per_hour=100.0 / ratio, **more)  # fmt: skip

    known = [
        tried("full", "full cache", 1.03, chosen_on=loss(0.0, width=0.0)),
        tried("snapkv pooled", "chosen" if chosen else "above", 0.3, chosen_on=loss(0.002),
              held_out=loss(0.003, 16), changed=2, compared=16, changed_at_most=0.344),
        tried("corm <b>", "within" if chosen else "above", 0.5, chosen_on=loss(0.001),
              held_out=loss(0.002, 16), changed=0, compared=16, changed_at_most=0.171),
        tried("harsh", "dropped", 0.1, chosen_on=loss(0.4), changed=8, compared=8, changed_at_most=1.0),
        Tried(label="odd", policy={"name": "odd"}, state="failed", failure="needs keys"),
    ]  # fmt: skip
    values = {
        "command": "corm-batch calibrate job.yaml", "date": "2026-11-27T01:00:00+00:00", "versions": {},
        "device": "CPU", "model": {"name": "m", "hash": "h", "dtype": "float32"},
        "task": {"name": "summarize"}, "max_loss": "1%", "limit": 0.00995, "read": 31, "whole": True,
        "chosen_on": 8, "held_out": 16, "prompts": 24,
        "prompt_tokens": 4000, "unanswered": 1, "reasons": ["too long"], "shared_pass": True, "minutes": 10.0,
        "seconds": 300.0, "tried": known, "chosen": chosen, "best": None if chosen else "snapkv pooled",
    }  # fmt: skip
    return Calibration(**values | fields)
