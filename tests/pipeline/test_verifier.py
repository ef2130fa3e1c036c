"""Verification on a model: what is flagged is what an uncompressed cache answers otherwise, and rerun answers as it."""

import asyncio
import json

import pytest
from transformers import AutoTokenizer

from corm_batch.audit.config import VerifyConfig
from corm_batch.data.document import Document
from corm_batch.engine.open import Engine
from corm_batch.pipeline.worker import EngineActor, Model, WorkerSettings
from corm_batch.tasks.base import Task
from corm_batch.text.tokenize import PromptTokenizer
from tests.conftest import llama_config, save_random_model
from tests.fakes import MODEL

SENTENCE = "The harbour of {} was closed in {} because of {} storms, which nobody there had seen before. "
DOCUMENTS = [
    Document(f"d{number}", "".join(SENTENCE.format(f"town {number}", 1800 + place, place) for place in range(number)))
    for number in range(1, 16)
]
HARSH = {"name": "corm", "window": 8, "recent": 4, "tau": 4.0, "reach": 0}
NEWEST = {"name": "streaming_llm", "sinks": 1, "recent": 112}  # of the two shortest documents everything stays


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """Call with a policy, what to do on a difference (None: not verified) and changes to the task; rows by document."""
    tokenizer = PromptTokenizer.from_pretrained(MODEL, document_role="document")
    config = llama_config(vocab_size=tokenizer.highest_token_id + 1, max_position_embeddings=400)
    folder = save_random_model(config, tmp_path_factory.mktemp("model"))
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)  # for answers that are held to a form

    def call(rows, policy, on_difference=None, **task):
        def load():
            options = {"policy": policy, "dtype": "float32", "device": "cpu", "kv_memory": 2**24, "page_size": 4}
            return Model(Engine.from_pretrained(folder, **options), tokenizer, 4096)

        verify = VerifyConfig(share=1, min_gap=1e-3, on_difference=on_difference) if on_difference else None
        task = Task.from_spec({"name": "summarize", "max_new_tokens": 8, **task})
        actor = EngineActor(WorkerSettings(load, task, rows, 60.0, verify=verify))

        async def main():
            await actor.load()
            return await asyncio.gather(*map(actor.process, DOCUMENTS))

        return {row.result["doc_id"]: row for row in asyncio.run(main())}

    return call


@pytest.mark.parametrize(("policy", "alike"), [(HARSH, set()), (NEWEST, {"d1", "d2"})])
def test_flags_are_those_of_the_answers_that_differ_and_rerun_gives_the_full_cache_s(answer, rows, policy, alike):
    full, flagged, rerun = answer(rows, {"name": "full"}), answer(rows, policy, "flag"), answer(rows, policy, "rerun")
    unlike = {name for name, row in flagged.items() if row.result["output"] != full[name].result["output"]}
    assert len(unlike) >= 5
    assert not unlike & alike
    assert {name for name, row in flagged.items() if row.result["first_difference"] is not None} == unlike
    assert {name for name, row in rerun.items() if row.result["rerun"]} == unlike
    for name, row in rerun.items():
        assert row.result["output"] == full[name].result["output"]
        assert row.result["first_difference"] == flagged[name].result["first_difference"]
        assert row.result["agreement"] == pytest.approx(flagged[name].result["agreement"])
        assert (row.memory["kv_bytes_peak"] > flagged[name].memory["kv_bytes_peak"]) == (name in unlike)
    assert all(row.result["pieces"] > 1 for name, row in full.items() if name in ("d14", "d15"))  # cut in windows


def test_the_full_cache_agrees_with_itself(answer, rows):
    found = answer(rows, {"name": "full"}, "flag")
    assert {row.result["agreement"] for row in found.values()} == {1.0}
    assert max(row.result["largest_gap"] for row in found.values()) < 1e-3
    for row in found.values():
        assert row.result["logprob_full"] == pytest.approx(row.result["logprob_kept"], abs=1e-4)


def test_sampled_answers_are_less_likely_to_the_full_cache_and_have_no_verdict(answer, rows):
    found = answer(rows, HARSH, "flag", temperature=0.5)
    assert {row.result["agreement"] for row in found.values()} == {None}
    losses = [row.result["logprob_kept"] - row.result["logprob_full"] for row in found.values()]
    assert sum(losses) > 0


def test_answers_held_to_a_form_are_verified_by_what_they_were_chosen_from(answer, rows):
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "boolean"}}, "required": ["b"]}
    form = {"name": "extract", "schema": schema, "max_new_tokens": 30, "retries": 0, "overflow": "truncate"}
    found = answer(rows, {"name": "full"}, "flag", **form)
    assert {row.result["agreement"] for row in found.values()} == {1.0}
    assert max(row.result["largest_gap"] for row in found.values()) < 1e-3
    assert all(json.loads(row.result["output"])["b"] in (True, False) for row in found.values())
