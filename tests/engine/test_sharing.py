"""Layers that share entries, in the engine, against a plain run of the same model by transformers in which a borrower's
keys and values are its owner's."""

from __future__ import annotations

import functools
import json
import pickle
from dataclasses import replace

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from corm_batch.engine.checkpoint import check_measured, weights_sha256
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.loader import load_model
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from tests.conftest import llama_config, save_random_model
from tests.engine.test_ensemble import assert_answers_are_those_of_each_alone
from tests.engine.test_families import FAMILIES
from tests.engine.test_scheduler import KVZIP, assert_books_balance
from tests.engine.test_score import run, run_preempting

SHARING = {2: 0, 4: 1, 5: 0}  # one owner has two borrowers, and another's stands between them
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CHUNKS = {"prefill": "streaming", "chunk_size": 23}
PREFILLS = pytest.mark.parametrize("fields", [{}, CHUNKS], ids=["exact", "chunks"])
CORM = {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5}
SNAPKV = {"name": "snapkv", "budget": {"name": "adakv", "max_kept": 20}, "window": 6, "recent": 8}
ANSWER = [7, 150, 32, 99, 7, 64]
LENGTHS = (61, 1, 34)


class Literal:
    """A model by transformers that attends as a subclass says, in the words of a definition.

    Attributes:
        held: what layers leave for those behind them.
        seen: by layer and kv head, the entries below `until` that queries from there on see; None for all.
    """

    def __init__(self, folder):
        AttentionInterface.register("literal", self.attend)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="literal")
        self.held, self.seen, self.until = {}, None, 0

    @torch.no_grad()
    def answer(self, ids, count):
        found = list(ids)
        for _ in range(count):
            found.append(int(self.model(torch.tensor([found]), use_cache=False).logits[0, -1].argmax()))
        return tuple(found[len(ids) :])

    @torch.no_grad()
    def logprobs(self, ids, answer):
        logits = self.model(torch.tensor([[*ids, *answer[:-1]]]), use_cache=False).logits[0, len(ids) - 1 :]
        return logits.log_softmax(-1)[range(len(answer)), answer].tolist()


class Plain(Literal):
    """What each layer attends to is its owner's."""

    def __init__(self, folder, sharing):
        super().__init__(folder)
        self.sharing = sharing

    def attend(self, module, query, key, value, mask, scaling=None, softcap=None, sliding_window=None, s_aux=None, **_):
        layer, group = module.layer_idx, query.shape[1] // key.shape[1]
        self.held[layer] = key[0].repeat_interleave(group, 0), value[0].repeat_interleave(group, 0)
        owner = self.sharing.get(layer, layer)
        keys, values = self.held[owner]
        logits = query[0] @ keys.transpose(1, 2) * scaling
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        apart = torch.arange(query.shape[2])[:, None] - torch.arange(query.shape[2])
        hidden = ((apart < 0) | (apart >= (sliding_window or 1000))).repeat(len(logits), 1, 1)
        for head, kept in enumerate(self.seen[owner] if self.seen else ()):
            gone = torch.tensor([at not in kept for at in range(self.until)])
            hidden[head * group : (head + 1) * group, self.until :, : self.until] |= gone
        logits = logits.masked_fill(hidden, -torch.inf)
        if s_aux is not None:
            logits = torch.cat((logits, s_aux[:, None, None].expand(-1, logits.shape[1], 1)), -1)
        weight = logits.softmax(-1)[..., : query.shape[2]]
        return (weight @ values).transpose(0, 1)[None], None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a tiny random Llama of six layers."""
    return save_random_model(llama_config(num_hidden_layers=6), tmp_path_factory.mktemp("six"), seed=5)


@functools.cache
def loaded(folder, device="cpu"):
    return load_model(folder, torch.float32, torch.device(device))


def make(folder, policy=None, device="cpu", **fields):
    """An engine on the one model that all have: one that shares changes nothing for another that does not."""
    given = {"page_size": 4, "kv_memory": "4MiB", "sharing": SHARING, "compact_every": 3, **fields}
    return EngineCore(loaded(folder, device), KVPolicy.from_spec(policy or {"name": "full"}), EngineConfig.parse(given))


def prompts(lengths=LENGTHS):
    return [[(i * 31 + j * j) % 199 for j in range(length)] for i, length in enumerate(lengths)]


def asked(new_tokens=9, lengths=LENGTHS, **fields):
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    return [Request(str(i), ids, sampling, True, **fields) for i, ids in enumerate(prompts(lengths))]


@PREFILLS
@pytest.mark.parametrize("device", DEVICES)
def test_answers_are_those_of_a_model_whose_borrowers_attend_to_what_owners_hold(device, fields, folder):
    plain, engine = Plain(folder, SHARING), make(folder, device=device, **fields)
    done, scores = run(engine, asked()), run(engine, asked(answer_ids=ANSWER))
    for one in asked():
        ids, size = one.token_ids, len(one.token_ids)
        assert done[one.id].token_ids == plain.answer(ids, 9)
        assert scores[one.id].scores.logprobs == pytest.approx(plain.logprobs(ids, ANSWER), abs=1e-4)
        memory, everything = done[one.id].memory, tuple(range(size + 8))
        assert done[one.id].kept_positions == tuple([((), ()) if n in SHARING else (everything,) * 2 for n in range(6)])
        assert memory.kept_per_layer == tuple(0 if layer in SHARING else 2 * (size + 8) for layer in range(6))
        assert memory.kv_bytes_full == 6 * 2 * (size + 8) * 2 * 16 * 4
        assert memory.kv_bytes_final == 3 * 2 * -(-(size + 8) // 4) * engine.cache.pool.page_bytes
        assert (memory.kept_ratio, memory.evicted_entries, memory.evicted_attention_mass) == (0.5, 0, 0.0)
    assert (engine.pool_bytes_used, engine.cache.num_lists) == (0, 3 * 2)


@PREFILLS
@pytest.mark.parametrize("family", ["qwen3", "phi3", "gemma2", "gpt_oss"])
def test_families_share_with_biases_windows_and_one_projection_for_all(family, fields, tmp_path):
    """Two layers that see a window share, and two that see all."""
    config = FAMILIES[family]()
    config.num_hidden_layers = 4
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2] * 2
    model = save_random_model(config, tmp_path)
    sharing = {2: 0, 3: 1}
    plain, engine = Plain(model, sharing), make(model, sharing=sharing, **fields)
    for one, done in run(engine, asked(answer_ids=ANSWER)).items():
        assert done.scores.logprobs == pytest.approx(plain.logprobs(prompts()[int(one)], ANSWER), abs=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_behind_a_prompt_borrowers_see_what_the_owners_policy_has_kept(device, folder):
    """Nothing of an answer leaves here, and what is left of the prompt is known from its first token on."""
    engine, plain = make(folder, SNAPKV, device, compact_every=100), Plain(folder, SHARING)
    begun = run(engine, asked(new_tokens=1))
    for name, one in run(engine, asked(answer_ids=ANSWER)).items():
        ids = prompts()[int(name)]
        plain.seen, plain.until = begun[name].kept_positions, len(ids)
        assert one.scores.logprobs == pytest.approx(plain.logprobs(ids, ANSWER), abs=1e-4)
    assert all(len(head) < 61 for layer in {0, 1, 3} for head in begun["0"].kept_positions[layer])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("policy", "storage", "fields"),
    [(CORM, "model", {}), (CORM, "int8", CHUNKS), (SNAPKV, "think", CHUNKS), (KVZIP, "model", {}), (CORM, "lorc", {})],
    ids=["corm", "corm int8 in chunks", "snapkv think in chunks", "kvzip", "corm lorc"],
)
def test_packed_preempted_and_beside_others_nothing_changes(policy, storage, fields, device, folder):
    """Others keep everything, or are scored by the model as it is; the bytes held are those of owners' lists."""
    fields = {"max_sequences": 6, "step_token_budget": 150, "storage": storage, **fields}
    alone, by_itself = {}, make(folder, policy, device, **fields)
    for one in asked():
        alone |= run(by_itself, [one])
    engine = make(folder, policy, device, **fields)
    whole = [replace(one, id=f"whole {one.id}", uncompressed=True) for one in asked()]
    told = [replace(one, id=f"told {one.id}", uncompressed=True, answer_ids=ANSWER) for one in asked()]
    done = run_preempting(engine, [one for three in zip(asked(), whole, told, strict=True) for one in three])
    assert sum(one.memory.preemptions for one in done.values()) > 0
    assert_books_balance(engine)
    assert engine.pool_bytes_used == 0
    own = run(make(folder, device=device, sharing={}), told)
    for one in asked():
        mine = done[one.id]
        assert mine.token_ids == alone[one.id].token_ids
        assert mine.kept_positions == alone[one.id].kept_positions
        assert mine.memory.kept_per_layer == tuple(sum(map(len, heads)) for heads in mine.kept_positions)
        assert {layer for layer, count in enumerate(mine.memory.kept_per_layer) if not count} == set(SHARING)
        pages = sum(-(-len(head) // 4) for heads in mine.kept_positions for head in heads)
        assert pages <= mine.memory.kv_bytes_final / engine.cache.pool.page_bytes <= pages + 6 * 2
        exact = own[f"told {one.id}"].scores.logprobs
        assert done[f"told {one.id}"].scores.logprobs == pytest.approx(exact, abs=1e-4)
        if storage == "model":
            assert done[f"whole {one.id}"].token_ids == Plain(folder, SHARING).answer(one.token_ids, 9)


@PREFILLS
def test_questions_over_a_reading_are_answered_as_whole_prompts(fields, folder):
    engine, plain = make(folder, **fields), Plain(folder, SHARING)
    document, questions = prompts()[0], [[5, 9, 70], [33], [8, 8, 1, 90, 2]]
    reading = engine.read(document)
    sampling = SamplingParams(max_new_tokens=6, ignore_eos=True)
    over = [Request(str(i), ids, sampling, reading=reading) for i, ids in enumerate(questions)]
    for done in engine.run(over):
        assert done.token_ids == plain.answer([*document, *questions[int(done.id)]], 6)
    reading.close()
    engine.step()
    assert engine.pool_bytes_used == 0


def test_layers_that_a_policy_skips_are_counted_as_in_the_model(folder):
    policy = {"name": "l2_norm", "budget": {"name": "uniform", "max_kept": 20}, "recent": 4, "skip_layers": [3, 4]}
    kept = run(make(folder, policy), asked(new_tokens=1, lengths=[61]))["0"].memory.kept_per_layer
    assert kept == (2 * 20, 2 * 20, 0, 2 * 61, 0, 0)


def test_more_documents_fit_one_pool(folder):
    requests = asked(new_tokens=2, lengths=[40] * 12)
    most = {}
    for share in ({}, SHARING):
        engine = make(folder, kv_memory=4 * 12 * 11 * 560, sharing=share)  # four of them, all of whose entries stay
        assert len(run(engine, requests)) == 12
        most[bool(share)] = engine.stats.most_in_flight
    assert most[True] >= 2 * most[False] - 1 > 1


def test_policies_that_read_together_have_what_each_has_alone(folder):
    config = EngineConfig.parse(
        {"page_size": 4, "step_token_budget": 150, "max_sequences": 4, "compact_every": 3, "sharing": SHARING}
    )
    policies = {"full": {"name": "full"}, "corm": CORM, "snapkv": SNAPKV, "kvzip": KVZIP}
    assert_answers_are_those_of_each_alone(
        loaded(folder), policies, config, asked(),
        lambda policy: run(make(folder, policy, step_token_budget=150, max_sequences=4), asked()),
    )  # fmt: skip


def test_what_nobody_asks_for_is_not_computed_where_nothing_is_scored(folder):
    model = load_model(folder, torch.float32, torch.device("cpu"))
    config = EngineConfig.parse({"kv_memory": "4MiB", "page_size": 4, "compact_every": 3, "sharing": SHARING})
    engine, other = (EngineCore(model, KVPolicy.from_spec(CORM), config) for _ in range(2))
    expected, calls = run(make(folder, CORM), asked()), []
    for number, layer in enumerate(model.module.model.layers):
        for name in ("k_proj", "v_proj"):
            projection = getattr(layer.self_attn, name)
            inner = getattr(projection, "inner", projection)
            inner.register_forward_hook(lambda *_, n=number: calls.append(n))
            assert isinstance(inner, torch.nn.Linear)  # another engine on the same model changes nothing more
    for one in (engine, other):
        for name, done in run(one, asked()).items():
            assert done.token_ids == expected[name].token_ids
    assert set(calls) == {0, 1, 3}
    run(engine, asked(answer_ids=ANSWER, uncompressed=True))
    assert set(calls) == set(range(6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sharing": {6: 0}}, r"engine.sharing: layer 6: the model has the layers 0\.\.5"),
        ({"sharing": {0: 3}}, r"layer 0 cannot borrow from layer 3: that has to be an earlier one"),
        ({"sharing": {2: 1, 3: 2}}, r"layer 3 cannot borrow from layer 2, which borrows from layer 1"),
        ({"sharing": {"x": 1}}, r"engine.sharing\.x"),
        ({"sharing": {2: -1}}, r"engine.sharing\.2: .* greater than or equal to 0, got -1"),
        ({"propagation": {"name": "attention"}}, "engine.sharing: not with engine.propagation: attention"),
        ({"sharing": "nowhere.json"}, "no table of shared layers there: No such file"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message, folder):
    with pytest.raises(SpecError, match=message):
        make(folder, **fields)


def test_layers_that_see_other_tokens_are_refused_and_so_are_scores_for_all_layers(folder, tmp_path):
    windowed = save_random_model(FAMILIES["gemma2"](), tmp_path)
    with pytest.raises(SpecError, match="layer 1 sees all tokens and layer 0 the newest 12 tokens"):
        make(windowed, sharing={1: 0})
    scores = {"name": "headkv", "max_kept": 20, "scores": [[1.0, 2.0]] * 6}
    with pytest.raises(SpecError, match="6 layers, the model has 3 with entries of their own"):
        make(folder, {**SNAPKV, "budget": scores})


def test_a_file_stands_for_the_layers_in_it_and_is_for_the_model_it_was_measured_on(folder, tmp_path):
    file = tmp_path / "table.json"
    table = {"model": "six", "weights_sha256": weights_sha256(folder), "sharing": {"4": 1, "2": 0}}
    file.write_text(json.dumps(table))
    config = EngineConfig.parse({"sharing": str(file)})
    assert config == EngineConfig.parse({"sharing": {2: 0, 4: 1}})
    assert pickle.loads(pickle.dumps(config)).sharing.origin == str(file)
    check_measured(KVPolicy.from_spec({"name": "full"}), config, folder)
    engine = Engine.from_pretrained(folder, policy={"name": "full"}, dtype="float32", device="cpu", sharing=str(file))
    assert engine.cache.num_lists == 4 * 2
    file.write_text(json.dumps(table | {"weights_sha256": "0" * 64}))
    with pytest.raises(SpecError, match=r"engine.sharing: .*other weights.*infra\.measure\.shared_layers"):
        Engine.from_pretrained(folder, policy={"name": "full"}, dtype="float32", device="cpu", sharing=str(file))
    file.write_text("{}")
    with pytest.raises(SpecError, match=r'engine\.sharing: no table of shared layers: it has no "sharing"'):
        EngineConfig.parse({"sharing": str(file)})
