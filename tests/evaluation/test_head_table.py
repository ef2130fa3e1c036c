"""How much heads look at a fact, against attention maps of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from corm_batch.engine.loader import load_model
from corm_batch.evaluation.head_table import FactCase, fact_cases, measure_heads
from corm_batch.text.tokenize import PromptTokenizer
from tests.conftest import REFERENCE_MODEL
from tests.engine.test_corm_oracle import random_prompts
from tests.policies.prompts import layers_of


def test_every_head_is_scored_by_what_it_gives_the_fact(tiny_llama):
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    prompts = random_prompts((50, 31), seed=1)
    # what is said stands in the fact, as retrieval counts it
    cases = [FactCase(tuple(prompt), range(9, 14), tuple(prompt[10:13])) for prompt in prompts]
    maps = [[layer.weight for layer in layers_of(tiny_llama, prompt + prompt[10:12])] for prompt in prompts]
    for method in ("retrieval", "retrieval_reasoning"):
        table = measure_heads(model, cases, method)
        for layer in range(2):
            for head in range(4):
                total = 0.0
                for prompt, weights in zip(prompts, maps, strict=True):
                    ids = prompt + prompt[10:12]
                    for row in range(3):
                        weight = weights[layer][head, len(prompt) - 1 + row]
                        if method == "retrieval":
                            top = int(weight.argmax())
                            total += (9 <= top < 14 and ids[top] == prompt[10 + row]) / 5 / 2
                        else:
                            total += (
                                sum(float(weight[i]) for i in weight.topk(5).indices.tolist() if 9 <= i < 14) / 5 / 6
                            )
                assert table[layer][head] == pytest.approx(total, abs=1e-6)
        assert max(map(max, table)) > 0


def test_cases_hold_their_fact_where_they_say_and_follow_from_the_seed():
    tokenizer = PromptTokenizer.from_pretrained(str(REFERENCE_MODEL), document_role="document")
    plain = AutoTokenizer.from_pretrained(REFERENCE_MODEL)
    text = "The ship sailed on. Nobody knew where to. It rained all day. " * 20
    cases = list(fact_cases(tokenizer, plain, text, 300, 4, seed=3))
    assert cases == list(fact_cases(tokenizer, plain, text, 300, 4, seed=3))
    assert len({case.token_ids for case in cases}) == 4
    for case in cases:
        fact = plain.decode([case.token_ids[i] for i in case.fact])
        value = plain.decode(case.answer_ids).strip()
        assert value.isdigit()
        assert f"is {value}" in fact
        assert len(fact) < 80
        assert value not in plain.decode([*case.token_ids[: case.fact.start], *case.token_ids[case.fact.stop :]])
