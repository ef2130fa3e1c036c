"""The pool of a GPU engine is what the largest forward pass leaves of it, and that pass then really fits."""

from __future__ import annotations

import pytest
import torch

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams

pytestmark = pytest.mark.gpu


def test_the_pool_leaves_room_for_the_longest_prompt(reference_model):
    free, _ = torch.cuda.mem_get_info()
    policy = {"name": "corm", "preset": "paper", "window": 32, "recent": 32, "tau": 2.0}
    engine = Engine.from_pretrained(reference_model, policy=policy, device="cuda", memory_fraction=1.0)
    assert 0.5 * free < engine.pool_bytes < free
    longest = engine.max_model_len - 8
    requests = [Request(str(i), [i + 1] * longest, SamplingParams(max_new_tokens=8, ignore_eos=True)) for i in range(6)]
    answers = list(engine.run(requests))
    assert [answer.error for answer in answers] == [None] * 6
    assert engine.pool_bytes_used == 0
