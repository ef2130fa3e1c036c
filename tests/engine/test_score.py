"""What an answer is worth to a model: by one exact pass, or under the policy token by token, against transformers."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams, Scores
from corm_batch.errors import DocumentError, EngineError
from tests.conftest import llama_config, save_random_model
from tests.engine.test_families import FAMILIES
from tests.engine.test_scheduler import KVZIP, assert_books_balance

STREAMING = {"prefill": "streaming", "chunk_size": 16}
EXACT = {"prefill": "exact"}
POLICIES = [
    {"name": "full"},
    {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5},
    {"name": "snapkv", "budget": {"name": "uniform", "max_kept": 20}, "window": 8, "recent": 8},
    KVZIP,
]
CORM = POLICIES[1]
LENGTHS = (41, 3, 77, 30, 120)
RULES = {
    "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [7, 8], "min_new_tokens": 4,
    "begin_suppress_tokens": [11, 60], "sequence_bias": [[[11], 3.0], [[20, 30], -9.0]], "bad_words_ids": [[9]],
    "eos_token_id": [17, 60],
}  # fmt: skip
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    """Folder of a model with every rule that there is."""
    folder = save_random_model(llama_config(), tmp_path_factory.mktemp("ruled"), seed=2)
    Path(folder, "generation_config.json").write_text(json.dumps(RULES))
    return folder


def make(folder, policy=CORM, device="cpu", pages=4000, **config):
    fields = {"page_size": 4, "kv_memory": pages * 560, "step_token_budget": 150, "max_sequences": 6, **config}
    return Engine.from_pretrained(folder, policy=policy, dtype="float32", device=device, **fields)


def prompts(lengths=LENGTHS):
    return {str(i): [(i * 31 + j * j) % 199 for j in range(n)] for i, n in enumerate(lengths)}


def requests(new_tokens=20, **fields):
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    return [Request(name, ids, sampling, **fields) for name, ids in prompts().items()]


def run(engine, asked):
    done = {one.id: one for one in engine.run(asked)}
    assert engine.pool_bytes_used == 0
    return done


def run_preempting(engine, asked):
    """As if the pool were too small for all of them: every few steps the youngest has to go."""
    step, steps = engine.step, itertools.count(1)

    def preempting():
        if next(steps) % 3 == 0 and engine.scheduler.running:
            engine.scheduler.preempt()
        return step()

    engine.step = preempting
    return run(engine, asked)


def scoring(done, uncompressed=True):
    """Requests that score what was answered."""
    asked = requests(answer_ids=(), uncompressed=uncompressed)
    return [replace(one, answer_ids=done[one.id].token_ids) for one in asked]


def own_logprobs(folder, ids, answer):
    """transformers' log-probabilities of an answer and of the likeliest tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *answer[:-1]]])).logits[0, len(ids) - 1 :]
    logprobs = logits.log_softmax(dim=-1)
    return logprobs.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist(), logprobs.amax(dim=-1).tolist()


def assert_is_its_own(scored, written):
    """Every token is the one that the model chose, at the probability it had then."""
    assert scored.error is None
    assert scored.token_ids == written.token_ids
    assert scored.scores.logprobs == scored.scores.best_logprobs
    assert len(scored.scores.logprobs) == len(written.token_ids)
    assert sum(scored.scores.logprobs) / len(written.token_ids) == pytest.approx(written.mean_logprob, abs=1e-4)
    assert scored.mean_logprob == pytest.approx(written.mean_logprob, abs=1e-4)


@pytest.mark.parametrize("prefill", [EXACT, STREAMING], ids=["exact", "streaming"])
@pytest.mark.parametrize("family", ["llama", "qwen2-window", "gemma2", "gpt_neox", "gpt_oss"])
def test_one_pass_tells_what_transformers_does(family, prefill, tmp_path, monkeypatch):
    """Windows, soft-capping and sinks included; the head runs over a few rows at a time; nothing is stored."""
    folder = save_random_model(FAMILIES[family](), tmp_path)
    engine = make(folder, **prefill)
    engine.runner.prefiller.rows_at_once = 7
    answers = {name: [(3 * i + len(ids)) % 199 for i in range(1 + len(ids) % 13)] for name, ids in prompts().items()}
    asked = [Request(name, ids, answer_ids=answers[name], uncompressed=True) for name, ids in prompts().items()]
    monkeypatch.setattr(engine.cache.pool, "take", lambda count: np.empty(0, np.int32) if not count else 1 / 0)
    done = run(engine, asked)
    assert engine.stats.decode_steps == engine.stats.output_tokens == 0
    for name, ids in prompts().items():
        logprobs, best = own_logprobs(folder, ids, answers[name])
        assert done[name].scores.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert done[name].scores.best_logprobs == pytest.approx(best, abs=1e-4)
        assert min(b - a for a, b in zip(done[name].scores.logprobs, done[name].scores.best_logprobs, strict=True)) >= 0
        memory = done[name].memory
        assert (memory.kv_bytes_peak, memory.evicted_entries, memory.kept_ratio) == (0, 0, 1.0)
        assert memory.kv_bytes_transient > 0
        assert memory.prefill_mode == "exact"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prefill", [EXACT, STREAMING], ids=["exact", "streaming"])
def test_an_answer_of_a_full_cache_is_what_one_pass_chooses_under_every_rule(prefill, device, ruled):
    engine = make(ruled, {"name": "full"}, device, **prefill)
    written = run(engine, requests())
    scored = run(engine, scoring(written))
    for name, one in scored.items():
        assert_is_its_own(one, written[name])


def test_rules_hold_row_by_row(ruled):
    """A penalty and bans, each as it was when the token was chosen, put on transformers' logits."""
    engine, ids = make(ruled), prompts()["0"]
    answer = [60, 5, 6, 5, 6, 7, 11, 20, 30]
    scores = engine.score(ids, answer)
    rules = engine.model.rules
    model = AutoModelForCausalLM.from_pretrained(ruled, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits_RV = model(torch.tensor([[*ids, *answer[:-1]]])).logits[0, len(ids) - 1 :]
    for place, (token, logits) in enumerate(zip(answer, logits_RV, strict=True)):
        before = np.array([*ids, *answer[:place]])
        for which, added in [*rules.always.items(), *rules.at(len(ids), place, before)]:
            logits[which] += added
        seen = torch.from_numpy(np.unique(before))
        logits[seen] = torch.where(logits[seen] < 0, logits[seen] * 1.2, logits[seen] / 1.2)
        logprobs = logits.log_softmax(dim=-1)
        assert scores.logprobs[place] == pytest.approx(logprobs[token].item(), abs=1e-4)
        assert scores.best_logprobs[place] == pytest.approx(logprobs.max().item(), abs=1e-4)
    assert scores.logprobs[0] == scores.logprobs[5] == -math.inf  # an end as the first token, and one suppressed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prefill", [EXACT, STREAMING], ids=["exact", "streaming"])
@pytest.mark.parametrize("policy", POLICIES, ids=[policy["name"] for policy in POLICIES])
def test_an_answer_is_its_own_under_the_policy_that_wrote_it(policy, prefill, device, ruled):
    """Beside answers that are written and scores by one pass, moved to the host and back on the way."""
    engine = make(ruled, policy, device, compact_every=3, **prefill)
    asked = requests(return_kept_positions=True)
    written = run(engine, asked)
    exact = run(engine, scoring(written))
    mixed = [
        *(replace(one, id=f"forced {one.id}", return_kept_positions=True) for one in scoring(written, False)),
        *(replace(one, id=f"one pass {one.id}") for one in scoring(written)),
        *asked,
    ]
    done = run_preempting(make(ruled, policy, device, compact_every=3, **prefill), mixed[::2] + mixed[1::2])
    assert sum(one.memory.preemptions for one in done.values()) > 0
    for name, one in written.items():
        assert done[name].token_ids == one.token_ids
        forced = done[f"forced {name}"]
        assert_is_its_own(forced, one)
        assert forced.kept_positions == one.kept_positions
        assert done[f"one pass {name}"].scores.logprobs == pytest.approx(exact[name].scores.logprobs, abs=1e-4)


def test_several_steps_at_a_time_score_the_same(tiny_llama):
    written = run(make(tiny_llama), requests())
    engine = make(tiny_llama)
    engine.decoder._fewest_steps = engine.decoder.most_steps = 7
    for name, one in run(engine, scoring(written, uncompressed=False)).items():
        assert_is_its_own(one, written[name])


def test_neither_an_end_nor_a_stop_ends_a_score_and_nothing_is_drawn(ruled):
    engine = make(ruled)
    answer = [17, 5, 17, 6, 60, 3]
    sampling = SamplingParams(max_new_tokens=2, temperature=1.0, stop_token_ids=(5,))
    for uncompressed in (True, False):
        stop = {"stop": lambda ids: 1 / 0}
        asked = Request("a", prompts()["0"], sampling, answer_ids=answer, uncompressed=uncompressed, **stop)
        (done,) = engine.run([asked])
        assert done.token_ids == tuple(answer)
        assert len(done.scores.logprobs) == 6
        assert done.finish_reason == "length"


def test_a_score_beside_other_work_loses_none_of_it(tiny_llama):
    engine, asked = make(tiny_llama), requests(new_tokens=4)
    expected = run(make(tiny_llama), asked)
    for one in asked:
        engine.add(one)
    scores = engine.score(prompts()["0"], expected["0"].token_ids)
    forced = engine.score(prompts()["0"], np.array(expected["0"].token_ids), uncompressed=False)
    assert forced.logprobs == forced.best_logprobs
    assert len(scores.logprobs) == 4
    assert engine.has_work
    done = {one.id: one for one in run(engine, []).values()}
    assert {name: one.token_ids for name, one in done.items()} == {
        name: one.token_ids for name, one in expected.items()
    }
    assert all(one.scores is None for one in done.values())


def test_what_can_never_be_scored_says_why(tiny_llama):
    engine = make(tiny_llama)
    for answer, message in (([3, 199], "answer to score.*0..198"), ([-1], "0..198"), ([1.5], "0..198")):
        with pytest.raises(DocumentError, match=message):
            engine.score([1, 2], answer)
    with pytest.raises(DocumentError, match=r"500 prompt tokens and 13 of the answer to score make 513.*512"):
        engine.score([1] * 500, [2] * 13)
    with pytest.raises(DocumentError, match="empty"):
        engine.score([], [2])
    assert len(engine.score([1] * 500, [2] * 12).logprobs) == 12
    assert engine.score([1], []) == engine.score([1], [], uncompressed=False) == Scores((), ())
    assert not engine.has_work


def test_a_cancelled_score_has_no_scores(tiny_llama):
    engine = make(tiny_llama)
    engine.add(Request("a", [1] * 9, answer_ids=[3] * 30))
    engine.step()
    engine.cancel("a")
    (done,) = engine.step()
    assert (done.finish_reason, done.scores) == ("cancelled", None)
    step = engine.step
    engine.step = lambda: [engine.cancel(one) for one in list(engine.answers._live)] and step()
    with pytest.raises(EngineError, match="cancelled"):
        engine.score([1] * 9, [3] * 30)


def test_logits_that_are_not_numbers_fail_the_score_alone(tiny_llama):
    engine = make(tiny_llama)
    with torch.no_grad():
        engine.model.module.get_input_embeddings().weight[150] = torch.nan
    bad = Request("bad", [1, 2], answer_ids=[3, 150, 4], uncompressed=True)
    good = Request("good", [1, 2], answer_ids=[3, 4], uncompressed=True)
    done = run(engine, [bad, good])
    assert "finite" in str(done["bad"].error)
    assert done["bad"].scores is None
    assert len(done["good"].scores.logprobs) == 2


@pytest.mark.parametrize("place", ["layers", "head"])
@pytest.mark.parametrize("prefill", [EXACT, STREAMING], ids=["exact", "streaming"])
def test_a_pass_too_large_for_the_device_is_halved_and_one_alone_fails(prefill, place, tiny_llama):
    """Also where the head finds no memory: its rows come after what was kept is booked."""
    sampled = [replace(one, sampling=SamplingParams(max_new_tokens=5, temperature=1.0)) for one in requests()]
    expected = run(make(tiny_llama, **prefill), sampled)
    scores = {name: make(tiny_llama).score(ids, [4] * 9).logprobs for name, ids in prompts().items()}
    engine = make(tiny_llama, step_token_budget=300, **prefill)
    engine.runner.prefiller.rows_at_once = 5
    read, failed = engine.model.module.forward, []

    def limited(*args, **kwargs):
        running, fresh = kwargs["batch"], kwargs["batch"].output is None
        output = read(*args, **kwargs)
        if len(running.batch.input_ids) > 100 and fresh == (place == "layers"):
            failed.append(len(running.batch.input_ids))
            raise torch.OutOfMemoryError("the device is full")
        return output

    engine.model.module.forward = limited
    scored = [Request(f"s{name}", ids, answer_ids=[4] * 9, uncompressed=True) for name, ids in prompts().items()]
    mixed = [one for pair in zip(scored, sampled, strict=True) for one in pair if one.id != "4"]
    done = run(engine, mixed)
    assert failed
    assert isinstance(done["s4"].error, DocumentError)
    assert "128 tokens of a prompt and an answer" in str(done["s4"].error)
    assert "the device is full" in str(done["s4"].error)
    for name in "0123":
        assert done[f"s{name}"].scores.logprobs == pytest.approx(scores[name], abs=1e-4)
        assert done[name].token_ids == expected[name].token_ids
    assert_books_balance(engine)
