"""Tokens that leave on the way through a model, in the engine, against a plain run of the same model by transformers
whose rows are gathered by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request
from tests.conftest import save_random_model
from tests.engine.test_families import FAMILIES

RULE = {"name": "attention", "share": 0.3, "pooling": 3, "window": 6, "first": 2, "recent": 5, "layer": 2}
LENGTHS = (61, 1, 34)
ANSWER = [7, 150, 32, 99, 7]
STREAMING = {"prefill": "streaming", "chunk_size": 23}
PREFILLS = pytest.mark.parametrize("fields", [{}, STREAMING], ids=["exact", "streaming"])


def four_layers(config):
    """The family with four layers, of which the third sees a window where the family knows such layers."""
    config.num_hidden_layers = 4
    if getattr(config, "layer_types", None):
        windowed = "sliding_attention" in config.layer_types
        config.layer_types = ["full_attention"] * 4
        if windowed:
            config.layer_types[2] = "sliding_attention"
    return config


def prompts(lengths=LENGTHS):
    return [[(i * 31 + j * j) % 199 for j in range(length)] for i, length in enumerate(lengths)]


def chosen(weight_HTT, rule, pieces):
    """Positions of a prompt that go on: of each piece the highest, as its newest queries saw them."""
    found = []
    for start, stop in pieces:
        score = weight_HTT[:, max(start, stop - rule["window"]) : stop, start:stop].mean(0).sum(0).tolist()
        reach = rule["pooling"] // 2
        pooled = [max(score[max(0, i - reach) : i + reach + 1]) for i in range(stop - start)]
        stay = {i for i in range(stop - start) if start + i < rule["first"] or i >= stop - start - rule["recent"]}
        order = sorted(range(stop - start), key=lambda i: (i in stay, pooled[i], i), reverse=True)
        most = max(math.ceil(rule["share"] * (stop - start)), len(stay))
        found += sorted(start + i for i in order[:most])
    return found


def by_hand(model, ids, num_prompt, rule, pieces):
    """Logits of the last tokens of `ids`, from the last of the prompt on, and which positions went on.

    Layers behind the one that decides are given the rows that go on, and a mask that says who sees whom.
    """
    layers, state = model.get_decoder().layers, {}

    def decide(module, args, output):
        weight = output[1][0]
        kept = chosen(weight[:, :num_prompt, :num_prompt], rule, pieces)
        state["kept"] = torch.tensor(kept + list(range(num_prompt, len(ids))))

    def gather(layer):
        window = None
        if getattr(model.config, "layer_types", None) and model.config.layer_types[layer] == "sliding_attention":
            window = model.config.sliding_window

        def run(module, args, kwargs):
            kept = state["kept"]
            (hidden,) = args
            apart = kept[:, None] - kept[None]
            seen = (apart >= 0) & (apart < (window or len(ids)))
            mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
            kwargs = {**kwargs, "attention_mask": mask, "position_ids": kept[None]}
            kwargs["position_embeddings"] = tuple(table[:, kept] for table in kwargs["position_embeddings"])
            return (hidden[:, kept] if hidden.shape[1] == len(ids) else hidden,), kwargs

        return run

    deciding = layers[rule["layer"] - 1]
    hooks = [getattr(deciding, "self_attn", None) or deciding.attention]
    hooks = [hooks[0].register_forward_hook(decide)]
    for number in range(rule["layer"], len(layers)):
        hooks.append(layers[number].register_forward_pre_hook(gather(number), with_kwargs=True))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits[-(len(ids) - num_prompt + 1) :], state["kept"].tolist()


def make_engine(folder, policy=None, rule=RULE, **fields):
    settings = {"dtype": "float32", "device": "cpu", "kv_memory": "4MiB", "page_size": 4, "propagation": rule}
    return Engine.from_pretrained(folder, policy=policy or {"name": "full"}, **settings | fields)


def scored(engine, lengths=LENGTHS, **fields):
    requests = [
        Request(str(i), ids, answer_ids=ANSWER, return_kept_positions=True, **fields)
        for i, ids in enumerate(prompts(lengths))
    ]
    done = {one.id: one for one in engine.run(requests)}
    assert engine.pool_bytes_used == 0
    return [done[str(i)] for i in range(len(lengths))]


@PREFILLS
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("mistral-window", "phi3-window")])
def test_logits_are_those_of_a_run_whose_rows_are_gathered_by_hand(family, fields, tmp_path):
    folder = save_random_model(four_layers(FAMILIES[family]()), tmp_path)
    engine = make_engine(folder, **fields)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for prompt, one in zip(prompts(), scored(engine), strict=True):
        size, chunk = len(prompt), fields.get("chunk_size", len(prompt))
        pieces = [(start, min(start + chunk, size)) for start in range(0, size, chunk)]
        logits, kept = by_hand(model, prompt + ANSWER[:-1], size, RULE, pieces)
        logprobs = logits.log_softmax(-1)
        assert one.scores.logprobs == pytest.approx(logprobs[range(len(ANSWER)), ANSWER].tolist(), abs=1e-4)
        assert one.scores.best_logprobs == pytest.approx(logprobs.amax(-1).tolist(), abs=1e-4)
        held, everything = kept, list(range(size + len(ANSWER) - 1))
        for layer, heads in enumerate(one.kept_positions):
            wanted = everything if layer < 2 else held
            if engine.model.windows[layer]:
                wanted = [at for at in wanted if at > everything[-1] + 1 - engine.model.windows[layer]]
            assert all(list(head) == wanted for head in heads)
        assert len(kept) < len(everything) or size == 1
