"""Choosing tokens: the likeliest, or a draw among the top-p likeliest that follows the model's probabilities."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.rules import NO_RULES, Rules
from corm_batch.engine.sampler import prepare, sample
from corm_batch.engine.sequence import Row, Sequence
from corm_batch.engine.shape import ModelShape

PROBS = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1])


def row(name="a", **sampling):
    """The first token of an answer."""
    return Row(Sequence(Request(name, [1], SamplingParams(**sampling)), 0, 1, torch.device("cpu")), 0)


def model(rules=NO_RULES, vocab_size=5):
    """One whose logits a test makes up."""
    shape = ModelShape(1, 1, 1, 1, 99, vocab_size)
    return LoadedModel(
        torch.nn.Identity(), shape, (None,), frozenset(), torch.device("cpu"), torch.float32, rules=rules
    )


def choose(logits, rows):
    tokens, logprobs, *_ = sample(logits, prepare(model(), rows, 1))
    return tokens.tolist(), logprobs[0].tolist()


def draws(count, rules=NO_RULES, **sampling):
    numbers = prepare(model(rules), [row(**sampling)], count)
    return Counter(int(sample(PROBS.log()[None], numbers, step)[0]) for step in range(count))


def test_temperature_zero_takes_the_likeliest_and_tells_its_probability():
    tokens, logprobs = choose(torch.stack([PROBS.log() + 7, PROBS.flip(0).log()]), [row(), row("b")])
    assert tokens == [1, 3]
    assert logprobs == pytest.approx([math.log(0.4)] * 2, rel=1e-5)


def test_draws_follow_the_probabilities():
    counts = draws(4000, temperature=1.0)
    for token, probability in enumerate(PROBS.tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "allowed"), [(0.01, {1}), (0.4, {1}), (0.41, {1, 3}), (0.8, {1, 3, 2}), (1.0, set(range(5)))]
)
def test_top_p_draws_among_the_fewest_tokens_that_hold_it(top_p, allowed):
    assert set(draws(600, temperature=1.0, top_p=top_p)) == allowed


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"min_p": 0.3}, {1, 3, 2}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_k": 2, "top_p": 0.5}, {1}),  # of the two likeliest's 0.7, the first is 0.57
        ({"suppress_tokens": (1,), "top_k": 1}, {3}),
    ],
)
def test_the_model_s_own_limits_hold_for_what_is_drawn(rules, allowed):
    assert set(draws(600, Rules(**rules), temperature=1.0)) == allowed
    assert draws(1, Rules(**rules), temperature=0.0).keys() == {3 if "suppress_tokens" in rules else 1}


def test_a_model_that_says_no_top_k_has_none():
    """`generate` of transformers would draw among 50."""
    drawn = row(temperature=1.0)
    drawn.sequence._rng = SimpleNamespace(random=lambda: 1.0 - 2.0**-26)
    rules = Rules.read(GenerationConfig(do_sample=True, temperature=0.7), 60, frozenset())
    tokens, *_ = sample(torch.linspace(1, 0, 60)[None], prepare(model(rules, 60), [drawn], 1))
    assert tokens.tolist() == [59]


def test_the_request_s_own_top_p_goes_before_the_model_s():
    assert set(draws(600, Rules(top_p=0.01), temperature=1.0, top_p=0.8)) == {1, 3, 2}


def test_the_probability_told_is_that_under_the_rules():
    choice = prepare(model(Rules(suppress_tokens=(1,))), [row()], 1)
    tokens, logprobs, *_ = sample(PROBS.log()[None], choice)
    assert tokens.tolist() == [3]
    assert logprobs.flatten().tolist() == pytest.approx([math.log(0.3 / 0.6)] * 2, rel=1e-5)


def test_an_answer_to_score_is_never_drawn_and_told_beside_the_likeliest():
    sampling = SamplingParams(temperature=1.0)
    scored = Sequence(Request("a", [1], sampling, answer_ids=[4, 0, 3]), 0, 1, torch.device("cpu"))
    choice = prepare(model(Rules(suppress_tokens=(0,))), [row("b"), Row(scored, 1), Row(scored, 2)], 2)
    for step, expected in enumerate(([1, 0, 3], [1, 3, 3])):
        tokens, logprobs, *_ = sample(PROBS.log().repeat(3, 1), choice, step)
        assert tokens.tolist() == expected
        told = [0.0 if token == 0 else PROBS[token].item() / 0.95 for token in expected]
        assert logprobs[0].exp().tolist() == pytest.approx(told, rel=1e-5)
        assert logprobs[1].exp().tolist() == pytest.approx([0.4 / 0.95] * 3, rel=1e-5)


def test_a_low_temperature_sharpens():
    assert draws(400, temperature=0.2)[1] > 300


def test_greedy_and_drawn_rows_share_a_batch():
    rows = [row(), row("b", temperature=1.0), row("c")]
    alone = choose(PROBS.log()[None], [row("b", temperature=1.0)])[0]
    assert choose(PROBS.log().repeat(3, 1), rows)[0] == [1, alone[0], 1]


def test_logits_that_are_not_numbers_show_in_the_probability():
    logits = torch.stack([PROBS.log(), torch.full((5,), torch.nan)])
    _, logprobs = choose(logits, [row(), row("b")])
    assert not math.isnan(logprobs[0])
    assert math.isnan(logprobs[1])


def test_draws_for_many_steps_are_those_of_one_step_after_another():
    logits = torch.randn(6, 1, 40)
    at_once = prepare(model(), [row(temperature=1.0)], 6)
    again = row(temperature=1.0)
    for step, logits_1V in enumerate(logits):
        assert sample(logits_1V, at_once, step)[0].tolist() == choose(logits_1V, [again._replace(num_new=step)])[0]


@pytest.mark.parametrize(("limits", "last"), [({"top_k": 2}, 3), ({"top_p": 0.41}, 3), ({"min_p": 0.9}, 1), ({}, 0)])
def test_the_largest_number_drawn_takes_a_token_that_is_allowed(limits, last):
    """As float32 a number close to 1 is 1; the last token of all is forbidden."""
    drawn = row(temperature=1.0, **limits)
    drawn.sequence._rng = SimpleNamespace(random=lambda: 1.0 - 2.0**-26)
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3, 0.0]]).log()
    assert choose(logits, [drawn])[0] == [last]


def test_the_smallest_temperatures_take_the_likeliest():
    assert draws(50, temperature=1e-40).keys() == {1}
    assert draws(50, temperature=1e-310).keys() == {1}


def test_the_likeliest_tokens_are_told_to_those_who_ask_for_them():
    """Of equal ones the lowest id first, whoever else is in the batch, and never one that is scored."""
    logits = torch.tensor([0.1, 0.3, 0.1, 0.3, 0.2]).log().repeat(4, 1)
    scored = Sequence(Request("s", [1], SamplingParams(logprobs=4), answer_ids=[2]), 0, 1, torch.device("cpu"))
    rows = [row(), row("b", logprobs=3), Row(scored, 0), row("c", logprobs=9)]
    told = sample(logits, prepare(model(), rows, 1))
    assert told.likeliest.shape == (4, 5)  # as many as there are
    assert told.likeliest[1].tolist() == told.likeliest[3].tolist() == [1, 3, 4, 0, 2]
    assert told.likeliest_logprobs[1].exp().tolist() == pytest.approx([0.3, 0.3, 0.2, 0.1, 0.1], rel=1e-5)
    assert told.likeliest_logprobs[[0, 2]].exp().sum() == 0
    alone = sample(logits[:1], prepare(model(), [row("b", logprobs=3)], 1))
    assert alone.likeliest.tolist() == [[1, 3, 4]]
    nobody = sample(logits[:1], prepare(model(), [row(logprobs=0)], 1))
    assert nobody.likeliest.shape == nobody.likeliest_logprobs.shape == (1, 0)
