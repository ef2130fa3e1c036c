"""Choosing tokens: the likeliest, or a draw among the top-p likeliest that follows the model's probabilities."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.sampler import draw, sample
from corm_batch.engine.sequence import Sequence

PROBS = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1])


def sequence(name="a", **sampling):
    return Sequence(Request(name, [1], SamplingParams(**sampling)), 0, 1, torch.device("cpu"))


def choose(logits, sequences):
    tokens, logprobs = sample(logits, draw(sequences, 1, logits.device))
    return tokens.tolist(), logprobs.tolist()


def draws(count, **sampling):
    numbers = draw([sequence(**sampling)], count, torch.device("cpu"))
    return Counter(int(sample(PROBS.log()[None], numbers, step)[0]) for step in range(count))


def test_temperature_zero_takes_the_likeliest_and_tells_its_probability():
    tokens, logprobs = choose(torch.stack([PROBS.log() + 7, PROBS.flip(0).log()]), [sequence(), sequence("b")])
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


def test_a_low_temperature_sharpens():
    assert draws(400, temperature=0.2)[1] > 300


def test_greedy_and_drawn_rows_share_a_batch():
    rows = [sequence(), sequence("b", temperature=1.0), sequence("c")]
    alone = choose(PROBS.log()[None], [sequence("b", temperature=1.0)])[0]
    assert choose(PROBS.log().repeat(3, 1), rows)[0] == [1, alone[0], 1]


def test_logits_that_are_not_numbers_show_in_the_probability():
    logits = torch.stack([PROBS.log(), torch.full((5,), torch.nan)])
    _, logprobs = choose(logits, [sequence(), sequence("b")])
    assert not math.isnan(logprobs[0])
    assert math.isnan(logprobs[1])


def test_draws_for_many_steps_are_those_of_one_step_after_another():
    logits = torch.randn(6, 1, 40)
    at_once = draw([sequence(temperature=1.0)], 6, logits.device)
    again = sequence(temperature=1.0)
    for step, row in enumerate(logits):
        assert sample(row, at_once, step)[0].tolist() == choose(row, [again])[0]
