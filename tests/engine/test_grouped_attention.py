"""Layers that share keys of distant tokens: as transformers runs them for training, and in the engine, against a
literal definition of what a member sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.grouped_attention import GROUPED
from corm_batch.engine.loader import load_model
from corm_batch.engine.plain import load_plain
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import ModelLoadError, SpecError, UnsupportedModelError
from corm_batch.evaluation.head_table import measure_heads
from tests.conftest import llama_config, save_random_model
from tests.engine import test_sharing
from tests.engine.test_ensemble import assert_answers_are_those_of_each_alone
from tests.engine.test_families import FAMILIES
from tests.engine.test_scheduler import KVZIP, assert_books_balance
from tests.engine.test_score import run, run_preempting
from tests.engine.test_sharing import (
    ANSWER,
    CHUNKS,
    CORM,
    DEVICES,
    PREFILLS,
    SNAPKV,
    Literal,
    asked,
    loaded,
    prompts,
)  # fmt: skip
from tests.ops.forms import FP8, INT4, INT8, MODEL

GROUPS, FIRST, RECENT = [[0, 1], [2, 3, 4]], 3, 7
OWNER = {1: 0, 3: 2, 4: 2}
POD = {"groups": GROUPS, "first": FIRST, "recent": RECENT, "trained": True}


class Plain(Literal):
    """A member's query sees distant tokens by its owner's keys.

    Attributes:
        form: in which keys and values are, but for the first token's to itself.
    """

    def __init__(self, folder, form=MODEL):
        super().__init__(folder)
        self.form = form

    def attend(self, module, query, key, value, mask, scaling=None, softcap=None, s_aux=None, **_):
        layer, group, size = module.layer_idx, query.shape[1] // key.shape[1], query.shape[2]
        keys, values = (
            one[0].float().repeat_interleave(group, 0) for one in self.form.decode(self.form.encode(key, value))
        )
        self.held[layer], owner = keys, OWNER.get(layer, layer)
        position, step = torch.arange(1, size + 1), torch.arange(1, size + 1)[:, None]
        distant = (position > FIRST) & (position <= step - RECENT)
        near, far = (query[0] @ self.held[one].transpose(1, 2) * scaling for one in (layer, owner))
        logits = torch.where(distant, far, near) if layer in OWNER else near
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        hidden = (position > step).repeat(len(logits), 1, 1)
        for head, kept in enumerate(self.seen[owner] if self.seen else ()):
            gone = torch.tensor([at not in kept for at in range(self.until)])
            gone = gone & distant[self.until :, : self.until] if layer in OWNER else gone
            hidden[head * group : (head + 1) * group, self.until :, : self.until] |= gone
        logits = logits.masked_fill(hidden, -torch.inf)
        if s_aux is not None:
            logits = torch.cat((logits, s_aux[:, None, None].expand(-1, size, 1)), -1)
        out = logits.softmax(-1)[..., :size] @ values
        if s_aux is None:
            out[:, 0] = value[0, :, 0].repeat_interleave(group, 0)
        return out.transpose(0, 1)[None], None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a tiny random Llama of six layers, of which five are in groups."""
    return save_random_model(llama_config(num_hidden_layers=6, pod=POD), tmp_path_factory.mktemp("pod"), seed=5)


def make(folder, policy=None, device="cpu", **fields):
    return test_sharing.make(folder, policy, device, **{"sharing": {}} | fields)


def near(count):
    """What a member holds by itself of so many tokens when the last has been read."""
    return tuple(at for at in range(count) if at < FIRST or at > count - RECENT)


def changed(folder, path, **fields):
    """The same model with other groups."""
    path.mkdir()
    for file in Path(folder).iterdir():
        (path / file.name).symlink_to(file)
    (path / "config.json").unlink()
    config = json.loads(Path(folder, "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"pod": POD | fields}))
    return str(path)


def test_a_plain_model_sees_distant_tokens_by_owners_keys_and_learns_through_them(folder):
    plain, literal = load_plain(folder, torch.device("cpu")), Plain(folder)
    ids = torch.tensor([prompts()[0], prompts((61, 61))[1]])
    logits = plain(input_ids=ids, use_cache=False).logits
    for row, one in enumerate(ids):
        with torch.no_grad():
            expected = literal.model(one[None], use_cache=False).logits[0]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)
    logits[:, -1].logsumexp(-1).sum().backward()
    assert all(part.self_attn.k_proj.weight.grad.abs().sum() > 0 for part in plain.model.layers)
    assert (plain.config._attn_implementation, plain.state_dict().keys()) == (
        GROUPED,
        literal.model.state_dict().keys(),
    )


@PREFILLS
@pytest.mark.parametrize("device", DEVICES)
def test_answers_are_those_of_the_definition_and_bytes_those_of_its_lists(device, fields, folder):
    plain, engine = Plain(folder), make(folder, device=device, **fields)
    done = run(engine, asked())
    scores = run(engine, asked(answer_ids=ANSWER))
    exact = run(engine, asked(answer_ids=ANSWER, uncompressed=True))  # in one pass
    pages = engine.cache.layout
    for one in asked():
        ids, size = one.token_ids, len(one.token_ids)
        assert done[one.id].token_ids == plain.answer(ids, 9)
        expected = pytest.approx(plain.logprobs(ids, ANSWER), abs=1e-4)
        assert scores[one.id].scores.logprobs == expected
        assert exact[one.id].scores.logprobs == expected
        memory, held = done[one.id].memory, [near(size + 8) if n in OWNER else range(size + 8) for n in range(6)]
        assert done[one.id].kept_positions == tuple((tuple(each),) * 2 for each in held)
        assert memory.kept_per_layer == tuple(2 * len(each) for each in held)
        assert memory.kv_bytes_full == 6 * 2 * (size + 8) * 2 * 16 * 4
        held_pages = sum(2 * -(-len(each) // entries) for each, entries in zip(held, pages.by_layer, strict=True))
        assert memory.kv_bytes_final == held_pages * pages.page_bytes
        assert (memory.evicted_entries, memory.evicted_attention_mass) == (0, 0.0)
    assert engine.pool_bytes_used == 0


def test_a_page_has_a_value_more_for_each_member_and_the_plan_counts_it(folder):
    shape, form = ModelShape.from_pretrained(folder), EngineConfig.parse({"storage": "model"}).form
    layout = make(folder).cache.layout
    assert layout.page_bytes == 4 * (4 * 16 * 4 + 12)  # a key and three values, in the widest layer
    per_token = 2 * layout.page_bytes * sum(1 / layout.by_layer[layer] for layer in (0, 2, 5))
    assert shape.page_bytes_per_token(form, torch.float32, page_size=4) == int(per_token)
    assert shape.kv_bytes_per_token(torch.float32) == 6 * 2 * 2 * 16 * 4  # of the model that it was made of


@pytest.mark.parametrize("device", DEVICES)
def test_behind_a_prompt_members_see_what_the_owners_policy_has_kept(device, folder):
    """Nothing of an answer leaves here, and what is left of the prompt is known from its first token on."""
    engine, plain = make(folder, SNAPKV, device, compact_every=100), Plain(folder)
    begun = run(engine, asked(new_tokens=1))
    for name, one in run(engine, asked(answer_ids=ANSWER)).items():
        ids = prompts()[int(name)]
        plain.seen, plain.until = begun[name].kept_positions, len(ids)
        assert one.scores.logprobs == pytest.approx(plain.logprobs(ids, ANSWER), abs=1e-4)
    assert all(len(head) < 61 for layer in (0, 2, 5) for head in begun["0"].kept_positions[layer])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("policy", "storage", "fields"),
    [
        (CORM, "model", {}),
        (CORM, "int8", CHUNKS),
        (SNAPKV, "think", CHUNKS),
        (KVZIP, "model", {}),
    ],
    ids=["corm", "corm int8 in chunks", "snapkv think in chunks", "kvzip"],
)
def test_packed_preempted_and_beside_others_nothing_changes(policy, storage, fields, device, folder):
    """Others keep everything, or are scored by the model as it is."""
    fields = {"max_sequences": 6, "step_token_budget": 150, "storage": storage, **fields}
    alone, by_itself = {}, make(folder, policy, device, **fields)
    for one in asked():
        alone |= run(by_itself, [one])
    engine, plain = make(folder, policy, device, **fields), Plain(folder)
    whole = [replace(one, id=f"whole {one.id}", uncompressed=True) for one in asked()]
    told = [replace(one, id=f"told {one.id}", uncompressed=True, answer_ids=ANSWER) for one in asked()]
    done = run_preempting(engine, [one for three in zip(asked(), whole, told, strict=True) for one in three])
    assert sum(one.memory.preemptions for one in done.values()) > 0
    assert_books_balance(engine)
    assert engine.pool_bytes_used == 0
    for one in asked():
        mine = done[one.id]
        assert mine.token_ids == alone[one.id].token_ids
        assert mine.kept_positions == alone[one.id].kept_positions
        assert mine.memory.kept_per_layer == tuple(sum(map(len, heads)) for heads in mine.kept_positions)
        assert done[f"told {one.id}"].scores.logprobs == pytest.approx(plain.logprobs(one.token_ids, ANSWER), abs=1e-4)
        if storage == "model":
            assert done[f"whole {one.id}"].token_ids == plain.answer(one.token_ids, 9)


@pytest.mark.parametrize("form", [INT8, FP8, INT4], ids=lambda form: form.name)
def test_what_an_answer_sees_is_what_is_stored_in_every_form(form, folder):
    """Members' values are rounded as their owner's are, each by a scale of its own."""
    ids = prompts()[0][:40]
    (one,) = run(make(folder, storage=form.name), [replace(asked()[0], token_ids=ids[:1], answer_ids=ids[1:])]).values()
    assert one.scores.logprobs == pytest.approx(Plain(folder, form).logprobs(ids[:1], ids[1:]), abs=2e-2)


@PREFILLS
@pytest.mark.parametrize("policy", [{"name": "full"}, CORM], ids=["full", "corm"])
def test_questions_over_a_reading_are_answered_as_whole_prompts(policy, fields, folder):
    engine, plain = make(folder, policy, **fields), Plain(folder)
    document, questions = prompts()[0], [[5, 9, 70], [33], [8, 8, 1, 90, 2]]
    reading = engine.read(document, uncompressed=True)
    sampling = SamplingParams(max_new_tokens=12, ignore_eos=True)
    over = [Request(str(i), ids, sampling, reading=reading, uncompressed=True) for i, ids in enumerate(questions)]
    for done in run_preempting_over(engine, over):
        assert done.token_ids == plain.answer([*document, *questions[int(done.id)]], 12)
    reading.close()
    engine.step()
    assert engine.pool_bytes_used == 0


def run_preempting_over(engine, over):
    for one in over:
        engine.add(one)
    done, steps = [], 0
    while engine.has_work:
        done, steps = done + engine.step(), steps + 1
        if steps % 3 == 0 and engine.scheduler.running:
            engine.scheduler.preempt()
    assert len(done) == len(over)
    return done


def test_policies_that_read_together_have_what_each_has_alone(folder):
    config = EngineConfig.parse({"page_size": 4, "step_token_budget": 150, "max_sequences": 4, "compact_every": 3})
    policies = {"full": {"name": "full"}, "corm": CORM, "snapkv": SNAPKV}
    assert_answers_are_those_of_each_alone(
        loaded(folder), policies, config, asked(),
        lambda policy: run(make(folder, policy, step_token_budget=150, max_sequences=4), asked()),
    )  # fmt: skip


def test_more_documents_fit_one_pool(folder, tmp_path):
    requests = asked(new_tokens=2, lengths=[80] * 12)
    most = {}
    for name, model in (("alone", changed(folder, tmp_path / "alone", groups=[])), ("groups", folder)):
        engine = make(model, kv_memory=5 * 12 * 20 * 560)
        assert len(run(engine, requests)) == 12
        most[name] = engine.stats.most_in_flight
    assert most["groups"] > most["alone"] > 1


@PREFILLS
def test_families_with_biases_and_norms_share_keys(fields, tmp_path):
    config = FAMILIES["qwen3"]()
    config.num_hidden_layers, config.pod = 6, POD
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * 6
    model = save_random_model(config, tmp_path)
    plain, engine = Plain(model), make(model, **fields)
    for one, done in run(engine, asked(answer_ids=ANSWER)).items():
        assert done.scores.logprobs == pytest.approx(plain.logprobs(prompts()[int(one)], ANSWER), abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sharing": {1: 0}}, "engine.sharing: not with a model whose layers share keys"),
        ({"propagation": {"name": "attention"}}, r"engine.propagation: attention: not with a model whose layers share"),
        ({"storage": "lorc"}, "engine.storage: lorc: not with a model whose layers share keys"),
    ],
)
def test_settings_that_cannot_be_had_are_refused(fields, message, folder):
    with pytest.raises(SpecError, match=message):
        make(folder, SNAPKV, **fields)


def test_models_that_cannot_be_run_so_are_refused(folder, tmp_path):
    untrained = changed(folder, tmp_path / "untrained", trained=False)
    with pytest.raises(UnsupportedModelError, match=r"converted by pod and not trained.* infra\.training\.heal JOB"):
        load_model(untrained, torch.float32, torch.device("cpu"))
    for number, (groups, message) in enumerate(
        [([[1, 0]], "neighbouring"), ([[0, 2]], "neighbouring"), ([[4, 5, 6]], r"layers 0\.\.5"), ("x", "neighbouring")]
    ):
        with pytest.raises(ModelLoadError, match=f"config.json .*{message}"):
            ModelShape.from_pretrained(changed(folder, tmp_path / str(number), groups=groups))
    with pytest.raises(UnsupportedModelError, match=r"share keys \(pod\) are not measured"):
        measure_heads(loaded(folder), [], "retrieval")
    windowed = FAMILIES["gemma2"]()
    windowed.pod = POD | {"groups": [[0, 1]]}
    with pytest.raises(UnsupportedModelError, match=r"layer 0 shares keys .* sees the newest \d+ tokens"):
        make(save_random_model(windowed, tmp_path / "windowed"))
