"""Tokens that leave on the way through a model, in the engine, against a plain run of the same model by transformers
whose rows are gathered by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from tests.conftest import llama_config, save_random_model
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
        reach = rule.get("pooling", 1) // 2
        pooled = [max(score[max(0, i - reach) : i + reach + 1]) for i in range(stop - start)]
        stay = {i for i in range(stop - start) if start + i < rule["first"] or i >= stop - start - rule["recent"]}
        if rule["name"] == "cumulative":
            found += sorted(start + i for i in stay | by_blocks(score, rule))
            continue
        order = sorted(range(stop - start), key=lambda i: (i in stay, pooled[i], i), reverse=True)
        most = max(math.ceil(rule["share"] * (stop - start)), len(stay))
        found += sorted(start + i for i in order[:most])
    return found


def by_blocks(score, rule):
    """Of the blocks of most attention as many as reach the share."""
    blocks = {i: sum(score[i : i + rule["block"]]) for i in range(0, len(score), rule["block"])}
    found, held = set(), 0.0
    for i in sorted(blocks, key=blocks.get, reverse=True):
        if held >= rule["coverage"] * sum(score):
            break
        found |= set(range(i, min(i + rule["block"], len(score))))
        held += blocks[i]
    return found


def by_hand(model, ids, num_prompt, rule, pieces):
    """Logits of the last tokens of `ids`, from the last of the prompt on, and which positions went on.

    Layers behind the one that decides are given the rows that go on, and a mask that says who sees whom.
    """
    layers, state = model.get_decoder().layers, {}

    def look(layer):
        return lambda module, args, output: state.update({layer: output[1][0]})

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

    attentions = [getattr(layer, "self_attn", None) or layer.attention for layer in layers]
    hooks = [attentions[rule["layer"] - 1].register_forward_hook(decide)]
    for number in range(rule["layer"], len(layers)):
        hooks.append(layers[number].register_forward_pre_hook(gather(number), with_kwargs=True))
        hooks.append(attentions[number].register_forward_hook(look(number)))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits[-(len(ids) - num_prompt + 1) :], state["kept"].tolist(), state


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
        logits, kept, _ = by_hand(model, prompt + ANSWER[:-1], size, RULE, pieces)
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a tiny random Llama of four layers."""
    return save_random_model(llama_config(num_hidden_layers=4), tmp_path_factory.mktemp("four"), seed=4)


@pytest.fixture(scope="module")
def eager(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


@PREFILLS
def test_blocks_by_cumulative_attention(fields, folder, eager):
    rule = {"name": "cumulative", "layer": 3, "coverage": 0.6, "block": 4, "window": 6, "first": 1, "recent": 3}
    for prompt, one in zip(prompts(), scored(make_engine(folder, rule=rule, **fields)), strict=True):
        size, chunk = len(prompt), fields.get("chunk_size", len(prompt))
        pieces = [(start, min(start + chunk, size)) for start in range(0, size, chunk)]
        logits, kept, _ = by_hand(eager, prompt + ANSWER[:-1], size, rule, pieces)
        assert one.scores.logprobs == pytest.approx(logits.log_softmax(-1)[range(5), ANSWER].tolist(), abs=1e-4)
        assert one.kept_positions[3] == (tuple(kept),) * 2


def test_corm_votes_with_as_many_queries_as_are_there(folder, eager):
    """More than always go on: those before them stand in the window, too. Decided by the definition, layer by layer."""
    window, recent, tau = 12, 4, 2.0
    policy = {"name": "corm", "preset": "paper", "window": window, "recent": recent, "tau": tau}
    (prompt,) = prompts((90,))
    sampling = SamplingParams(max_new_tokens=1, ignore_eos=True)
    (done,) = make_engine(folder, policy).run([Request("a", prompt, sampling, return_kept_positions=True)])
    _, kept, state = by_hand(eager, prompt, 90, RULE, [(0, 90)])
    count = [90 - len(kept) + 1 + row for row in range(len(kept))]
    dropped = 0
    for layer in (2, 3):
        weight = state[layer].view(2, 2, len(kept), len(kept)).amax(dim=1)
        for head in range(2):
            wanted = []
            for n, position in enumerate(kept):
                hits = [
                    r for r in range(len(kept) - window, len(kept)) if weight[head, r, n] >= tau / count[r] and r >= n
                ]
                if hits or count[n] > 90 - recent:
                    wanted.append(position)
            assert list(done.kept_positions[layer][head]) == wanted
            dropped += len(kept) - len(wanted)
    assert dropped > 0
    assert 0 < done.memory.evicted_attention_mass < 1


@PREFILLS
def test_all_of_them_is_as_if_there_were_no_propagation(fields, folder):
    everything = scored(make_engine(folder, rule=RULE | {"share": 1.0}, **fields))
    for one, other in zip(everything, scored(make_engine(folder, rule=None, **fields)), strict=True):
        assert one.scores == other.scores
        assert one.kept_positions == other.kept_positions


def test_what_a_policy_has_counted_is_not_counted_again(folder, monkeypatch):
    """Under a policy whose votes are those that decide, there is one reduction a layer, and the same tokens go on."""
    policy = {"name": "snapkv", "window": 6, "recent": 8, "budget": {"name": "uniform", "max_kept": 1000}}
    engine, counts = make_engine(folder, policy), []
    for other in (engine, make_engine(folder)):
        calls, reduce = [], other.cache.ops.reduce_columns
        ops = other.cache.ops._replace(reduce_columns=lambda *a, _c=calls, _r=reduce, **k: _c.append(1) or _r(*a, **k))
        other.cache.ops = ops
        other.evictions.propagating = replace(other.evictions.propagating, ops=ops)
        counts.append((scored(other), calls))
    (mine, reductions), (full, alone) = counts
    assert (len(reductions), len(alone)) == (4, 3)  # all prompts of a pass vote together
    assert [one.kept_positions for one in mine] == [one.kept_positions for one in full]


def test_what_makes_no_sense_is_refused(folder, tmp_path):
    kvzip = {"name": "kvzip", "first_ids": [1], "later_ids": [1], "closing_ids": [1]}
    with pytest.raises(SpecError, match=r"policy.name: kvzip"):
        make_engine(folder, kvzip)
    with pytest.raises(SpecError, match=r"engine.propagation.layer: 4: .* has none behind it; allowed are 1, 2, 3"):
        make_engine(folder, rule=RULE | {"layer": 4})
    windowed = save_random_model(FAMILIES["mistral-window"](), tmp_path)
    with pytest.raises(SpecError, match="none but the last sees a whole prompt"):
        make_engine(windowed, rule={"name": "attention"})
