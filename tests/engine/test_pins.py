"""What is pinned of a prompt stays in every head, whatever a policy says of it, and counts towards its budget."""

from __future__ import annotations

import pytest
import torch

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from tests.engine.test_corm_oracle import random_prompts
from tests.policies.prompts import highest, layers_of

BUDGET = {"name": "uniform", "max_kept": 20}
SNAPKV = {"name": "snapkv", "recent": 4, "window": 4}
POLICIES = {
    "corm": {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 30.0},
    "corm bound": {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "budget": BUDGET},
    "random": {"name": "random", "keep_ratio": 0.1, "recent": 4},
    "streaming_llm": {"name": "streaming_llm", "sinks": 0, "recent": 9},
    "duo_attention": {"name": "duo_attention", "sinks": 0, "recent": 9, "scores": [[1, 0], [0, 1]]},
    "fastgen": {"name": "fastgen", "recovery": 0.3, "frequency": 0.1, "local": 0.1, "special_ids": [1],
                "punctuation_ids": [2]},
    "snapkv": SNAPKV | {"budget": BUDGET},
    "h2o": {"name": "h2o", "recent": 4, "budget": BUDGET},
    "keydiff": {"name": "keydiff", "recent": 4, "budget": BUDGET},
    "compactor": {"name": "compactor", "recent": 2, "chunk": 10, "sketch": 12, "pin_first": 0, "budget": BUDGET},
    "expected_attention": {"name": "expected_attention", "pin_first": 0, "budget": BUDGET},
    "kvzip": {"name": "kvzip", "chunk": 11, "pin_first": 0, "first_ids": [3, 4], "later_ids": [5], "closing_ids": [6],
              "budget": {"name": "adakv", "max_kept": 20, "floor": 0.0}},
    "tova": {"name": "tova", "recent": 4, "budget": BUDGET},
    "adakv": SNAPKV | {"budget": {"name": "adakv", "max_kept": 20, "floor": 0.0}},
    "headkv": SNAPKV | {"budget": {"name": "headkv", "max_kept": 20, "scores": [[1, 0], [0.2, 0.1]], "beta": 1.0}},
    "pyramidkv": {"name": "h2o", "recent": 4, "budget": {"name": "pyramidkv", "max_kept": 20, "beta": 60.0}},
}  # fmt: skip
PROMPTS = random_prompts((61, 5, 90, 61), seed=11)
PROMPTS[3] = PROMPTS[0]
INSTRUCTIONS = (range(2, 6), range(55, 61)), (range(5),), (range(3), range(30, 38)), ()


def ask(folder, policy, new_tokens=14, prompts=PROMPTS, instructions=INSTRUCTIONS, **config):
    """What one engine answers to prompts with instructions, side by side; in their order."""
    fields = {"dtype": "float32", "device": "cpu", "kv_memory": "8MiB", "page_size": 4, **config}
    engine = Engine.from_pretrained(folder, policy=policy, **fields)
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    requests = [
        Request(str(i), prompt, sampling, return_kept_positions=True, instruction=instruction)
        for i, (prompt, instruction) in enumerate(zip(prompts, instructions, strict=True))
    ]
    done = sorted(engine.run(requests), key=lambda one: one.id)
    assert engine.pool_bytes_used == 0
    return done


def lost(done, spans):
    """How many heads have let go of a token of the spans."""
    tokens = {token for span in spans for token in span}
    return sum(not tokens <= set(head) for layer in done.kept_positions for head in layer)


BOTH = ("corm", "snapkv", "h2o", "streaming_llm", "adakv")
CASES = [(name, "streaming") for name in POLICIES] + [(name, "exact") for name in BOTH]


@pytest.mark.parametrize(("name", "prefill"), CASES)
def test_an_instruction_stays_in_every_head(name, prefill, tiny_llama):
    policy = POLICIES[name] | {"pin_instruction": True}
    done = ask(tiny_llama, policy, prefill=prefill, chunk_size=16, compact_every=3)
    assert [lost(one, spans) for one, spans in zip(done, INSTRUCTIONS, strict=True)] == [0] * 4
    assert lost(done[3], INSTRUCTIONS[0]) > 0  # where nothing is said of them they leave
    assert done[0].memory.evicted_entries > 0
    if "budget" in policy:
        most = {"pyramidkv": 2 * 20 * 2, "headkv": 2 * 20 * 2}.get(name, 2 * 20)
        assert all(sum(map(len, layer)) <= most for one in done for layer in one.kept_positions)


@pytest.mark.parametrize("name", ["corm", "fastgen", "expected_attention", "compactor", "pyramidkv"])
def test_the_first_entries_stay_in_every_head(name, tiny_llama):
    nothing = ((),) * 4
    done = ask(tiny_llama, POLICIES[name] | {"pin_first": 9}, compact_every=3, instructions=nothing)
    assert [lost(one, [range(min(9, len(prompt)))]) for one, prompt in zip(done, PROMPTS, strict=True)] == [0] * 4
    assert done[0].memory.evicted_entries > 0


def test_the_rest_goes_by_rank(tiny_llama):
    policy = {"name": "h2o", "recent": 5, "pin_first": 2, "pin_instruction": True, "budget": BUDGET}
    prompt = random_prompts((57,), seed=8)[0]
    (done,) = ask(tiny_llama, policy, 1, [prompt], [(range(1, 4), range(20, 24))])
    for layer, kept in zip(layers_of(tiny_llama, prompt), done.kept_positions, strict=True):
        score = layer.weight.unflatten(0, (2, -1)).mean(dim=1).sum(dim=1)
        score[:, :4] = score[:, 20:24] = score[:, -5:] = torch.inf
        assert [set(head) for head in kept] == [highest(row, 20) for row in score]


def test_beside_others_as_alone_and_after_a_preemption(tiny_llama):
    policy = POLICIES["snapkv"] | {"pin_instruction": True}
    (alone,) = ask(tiny_llama, policy, 24, PROMPTS[2:3], INSTRUCTIONS[2:3])
    assert ask(tiny_llama, policy, 24)[2].kept_positions == alone.kept_positions
    tight = ask(tiny_llama, policy, 24, kv_memory=48 * 560, compact_every=8)
    assert sum(one.memory.preemptions for one in tight) > 0
    assert [lost(one, spans) for one, spans in zip(tight, INSTRUCTIONS, strict=True)] == [0] * 4


def test_a_score_under_the_policy_is_that_of_the_answer(tiny_llama):
    policy = POLICIES["snapkv"] | {"pin_instruction": True}
    (done,) = ask(tiny_llama, policy, 12, PROMPTS[:1], INSTRUCTIONS[:1], compact_every=3)
    fields = {"dtype": "float32", "device": "cpu", "kv_memory": "8MiB", "page_size": 4, "compact_every": 3}
    engine = Engine.from_pretrained(tiny_llama, policy=policy, **fields)
    asked = {"token_ids": PROMPTS[0], "answer_ids": done.token_ids, "instruction": INSTRUCTIONS[0]}
    under, whole = (engine.score(**asked, uncompressed=uncompressed) for uncompressed in (False, True))
    assert sum(under.logprobs) / 12 == pytest.approx(done.mean_logprob, abs=1e-5)
    assert whole.logprobs != under.logprobs


def test_what_cannot_stay_is_refused(tiny_llama):
    spans = (range(3), range(40, 54))
    few = ask(tiny_llama, POLICIES["snapkv"] | {"pin_instruction": True}, 3, PROMPTS[:2], [spans, (range(5),)])
    assert "17 tokens of the prompt are pinned" in str(few[0].error)
    assert "that makes 21, and a head may hold 20 (policy.budget.max_kept 20)" in str(few[0].error)
    assert few[1].error is None
    share = {"budget": {"name": "uniform", "max_kept": 0.1}}
    (wide,) = ask(tiny_llama, POLICIES["snapkv"] | share | {"pin_instruction": True}, 3, PROMPTS[:1], [spans])
    assert lost(wide, spans) == 0
    assert ask(tiny_llama, POLICIES["corm"] | {"pin_instruction": True}, 3, PROMPTS[:1], [spans])[0].error is None
    assert ask(tiny_llama, POLICIES["snapkv"], 3, PROMPTS[:1], [spans])[0].error is None
    (unknown,) = ask(tiny_llama, POLICIES["corm"] | {"pin_instruction": True}, 3, PROMPTS[:1], [None])
    assert "policy.pin_instruction: it is not said which tokens" in str(unknown.error)
    for span in (range(50, 62), range(-1, 3), range(0, 8, 2), range(5, 2)):
        (wrong,) = ask(tiny_llama, POLICIES["corm"], 3, PROMPTS[:1], [(span,)])
        assert str(wrong.error) == f"instruction: {span} is no span of a prompt of 61 tokens"


def test_a_budget_must_have_room_for_what_never_leaves():
    with pytest.raises(SpecError, match=r"max_kept \(20\) must be at least recent \(15\) and pin_first \(6\)"):
        KVPolicy.from_spec({"name": "h2o", "recent": 15, "pin_first": 6, "budget": BUDGET})
    assert KVPolicy.from_spec({"name": "h2o", "recent": 14, "pin_first": 6, "budget": BUDGET}).num_first == 6
