"""From a job to a result, on a tiny random model with the reference model's tokenizer."""

from __future__ import annotations

import shutil
import time

import pytest

from corm_batch.calibration.loss import MaxLoss
from corm_batch.calibration.models import OneByOne, Together
from corm_batch.calibration.run import run_calibration
from corm_batch.calibration.sample import Drawn
from corm_batch.calibration.setup import Asked, _loader, candidates, set_up, usual_first
from corm_batch.calibration.words import about_rows
from corm_batch.data.document import Document
from corm_batch.errors import SpecError
from corm_batch.evaluation.answers import AnswerStore
from corm_batch.policies.base import KVPolicy
from tests.calibration.races import MINUTE
from tests.conftest import REFERENCE_MODEL, llama_config, save_random_model

DOCUMENTS = {f"d{i}": f"Number {i}. {MINUTE * (1 + i % 2)}" for i in range(8)}
SHORT = {"name": "streaming_llm", "sinks": 1, "recent": 15}
ODD = {"name": "snapkv", "budget": {"name": "headkv", "scores": [[1.0]], "max_kept": 64}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny random model that has a tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    save_random_model(llama_config(vocab_size=8192), folder)
    for file in REFERENCE_MODEL.glob("*token*"):
        shutil.copy(file, folder)
    shutil.copy(REFERENCE_MODEL / "chat_template.jinja", folder)
    return str(folder)


def asked(*policies, limit="1%", registered=False):
    known = {f"p{place}": (KVPolicy.from_spec(fields), fields) for place, fields in enumerate(policies)}
    return Asked(MaxLoss.parse(limit), known, registered, 8, "seed", 5.0, "corm-batch calibrate job.yaml")


def test_in_16_bits_entries_are_stored_as_a_job_under_each_policy_would_and_it_says_so(job, model, tmp_path):
    spec = job(DOCUMENTS, model={"name": model, "dtype": "bfloat16"}, task={"max_new_tokens": 4})
    plan, race = set_up(spec, asked(SHORT, limit="100 nats"), AnswerStore(str(tmp_path / "answers")))
    result = run_calibration(plan, race, time.monotonic())
    assert (result.chosen, result.storage) == ("p0", "int8")
    own = "under policies stored as int8, those of the full cache as the model computes them"
    assert dict(about_rows(result))["entries"] == own
    forms = {label: engine.cache.form.name for label, engine in race.models._ensemble.engines.items()}
    assert forms == {"full": "model", "p0": "int8"}


def test_policies_are_tried_on_the_jobs_documents(job, model, tmp_path):
    spec = job(DOCUMENTS, model={"name": model}, task={"max_new_tokens": 4})
    plan, race = set_up(spec, asked(SHORT, ODD, limit="100 nats"), AnswerStore(str(tmp_path / "answers")))
    assert isinstance(race.models, Together)
    result = run_calibration(plan, race, time.monotonic())
    assert (result.chosen, result.chosen_on, result.held_out) == ("p0", 4, 4)
    short = result.of("p0")
    assert short.held_out.mean > 0
    assert short.peak_ratio < result.of("full").peak_ratio
    assert short.changed is not None
    assert result.of("p1").failure == "policy.budget.scores: 1 layers, the model has 2 with entries of their own"
    assert result.shared_pass
    alone = OneByOne(_loader(spec), race.models.max_model_len)
    requests = [request for exam in race.exams.values() for request in exam.requests]
    known = {one: found["p"].scores.logprobs for one, found in _scored(alone, requests)}
    together = {one: found["p"].scores.logprobs for one, found in _scored(race.models, requests)}
    assert known.keys() == together.keys()
    assert all(known[name] == pytest.approx(together[name], abs=1e-4) for name in known)


def _scored(models, requests):
    return [(request.id, done) for request, done in models.score({"p": KVPolicy.from_spec(SHORT)}, requests)]


def test_a_policy_that_no_engine_takes_fails_alone_where_each_is_loaded_anew(job, model):
    spec = job(DOCUMENTS, model={"name": model})
    models = OneByOne(_loader(spec), 512)
    assert list(models.score({"odd": KVPolicy.from_spec(ODD)}, [])) == []


def test_a_policy_that_reads_behind_prompts_is_tried_on_a_document_beyond_the_context(job, model, tmp_path):
    """And on several questions about each of its windows, which share a reading in a run."""
    text = "A sentence of six words, again. " * 100
    task = {"name": "question_answer", "questions": ["Who?", "When?"], "overflow": "map_reduce", "max_new_tokens": 4}
    spec = job({"long": text}, model={"name": model}, task=task, engine={"max_model_len": 256})
    kvzip = {"name": "kvzip", "budget": {"name": "adakv", "max_kept": 0.5, "floor": 0.0}}
    _, race = set_up(spec, asked(kvzip, ODD, SHORT), AnswerStore(str(tmp_path / "answers")))
    assert race.run([Document("long", text)], ["p0", "p2"]) == ["long"]
    assert race.failed == {}
    assert race.losses["p0"]["long"].nats != 0


def test_documents_of_the_usual_length_choose_first_and_the_others_stay_as_they_were_drawn():
    drawn = Drawn([Document(str(i), "") for i in range(8)], 8, whole=True)

    def order(tokens):
        return "".join(document.doc_id for document in usual_first(drawn, tokens)[0].documents)

    assert order([900, 100, 500, 40, 510, 5000, 480, 490]) == "21034567"
    assert order([]) == "01234567"
    _, sizes = usual_first(drawn, [9, 0, 9])
    assert sizes == {"0": 9, "1": 1, **dict.fromkeys("234567", 9)}


def test_what_policies_propose_fits_the_jobs_prompts():
    found = candidates(4000)
    assert len(found) > 15
    assert len({repr(policy) for policy in found}) == len(found)
    assert {policy.budget.max_kept for policy in found if getattr(policy, "budget", None)} <= {0.5, 0.25, 0.125}


def test_without_policies_or_usable_documents_there_is_nothing_to_do(job, model, tmp_path):
    store = AnswerStore(str(tmp_path / "answers"))
    with pytest.raises(SpecError, match="no usable document"):
        set_up(job([("a", None)], model={"name": model}), asked(), store)
    with pytest.raises(SpecError, match="nothing to try"):
        set_up(job(DOCUMENTS, model={"name": model}), asked(), store)
