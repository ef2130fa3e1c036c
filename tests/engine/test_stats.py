"""EngineStats: shares of a step's time."""

import pytest
import torch

from corm_batch.engine.request import Request
from corm_batch.engine.sequence import Sequence
from corm_batch.engine.stats import EngineStats
from corm_batch.engine.work import Span


def sequences(count):
    return [Sequence(Request(str(number), [1] * 100), number, 2, torch.device("cpu")) for number in range(count)]


def test_the_shares_of_a_pass_go_by_tokens_and_add_up_to_it():
    one, two, three = sequences(3)
    stats = EngineStats()
    stats.prefilled([Span(one, 0, 10), Span(two, 20, 50)], 4.0)
    stats.prefilled([Span(two, 50, 51)], 0.5)
    assert (one.prefill_s, two.prefill_s, three.prefill_s) == (pytest.approx(1.0), pytest.approx(3.5), 0.0)
    assert stats.prompt_tokens == 41


def test_documents_share_decode_steps_evenly():
    one, two = sequences(2)
    stats = EngineStats()
    stats.decoded([one, two], 3, 1.0)
    stats.decoded([two], 2, 0.25)
    assert (one.decode_s, two.decode_s, stats.decode_steps) == (0.5, 0.75, 5)
