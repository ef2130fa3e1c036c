"""Layers that are to share keys of distant tokens: which are found, what is written, what is refused."""

import itertools
import json

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, MistralConfig

from corm_batch import Engine, Request, SamplingParams
from corm_batch.engine.grouped_attention import GROUPED
from corm_batch.engine.plain import load_plain
from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.weights.base import Weights
from corm_batch.weights.conversion import RECORD, Texts, check, convert, write
from corm_batch.weights.kv_heads import KVHeads
from corm_batch.weights.pod import PoD, best_groups, divergences
from tests.weights.test_kv_heads import CONFIGS, SIZES, TEXTS, random_model

CPU = torch.device("cpu")
SIX = LlamaConfig(**SIZES | {"num_hidden_layers": 6})
SMALL = {"first": 2, "recent": 7, "num_tokens": 60}


def least_by_trying_all(unlike, num_members):
    """The same by its definition."""
    layers = len(unlike)
    found = []
    for owners in itertools.combinations(range(1, layers), layers - num_members - 1):
        starts = [0, *owners, layers]
        groups = [range(a, b) for a, b in itertools.pairwise(starts)]
        found.append(sum(float(unlike[group[0], layer]) for group in groups for layer in group[1:]))
    return min(found)


@pytest.mark.parametrize("layers", [2, 5, 8])
def test_groups_are_those_whose_divergences_add_up_to_the_least(layers):
    unlike = torch.rand(layers, layers, generator=torch.Generator().manual_seed(layers))
    for num_members in range(1, layers):
        groups = best_groups(unlike, num_members)
        assert all(group == tuple(range(group[0], group[-1] + 1)) for group in groups)
        assert sum(len(group) - 1 for group in groups) == num_members
        total = sum(float(unlike[group[0], layer]) for group in groups for layer in group[1:])
        assert total == pytest.approx(least_by_trying_all(unlike, num_members))


def test_layers_that_look_alike_go_together():
    model = random_model(SIX)
    layers = model.model.layers
    for layer in layers:  # what a layer adds is nothing: all see the same hidden states
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
        layer.input_layernorm.weight.data.fill_(1.0)
    for one, other in ((1, 2), (4, 5)):
        for name in ("q_proj", "k_proj"):
            getattr(layers[other].self_attn, name).weight.data.copy_(getattr(layers[one].self_attn, name).weight.data)
    unlike = divergences(model, TEXTS[:2], 2, 7)
    assert unlike[1, 2] == pytest.approx(0, abs=1e-5)
    assert unlike[0, 3] > 1e-3
    assert torch.equal(unlike, unlike.T)
    made = PoD(saved=1 / 6, **SMALL).change(model, TEXTS)
    assert made.config.pod["groups"] == [[1, 2], [4, 5]]


def test_weights_stay_and_the_model_says_what_it_is_to_be_trained_for(tiny_model, tmp_path):
    before, folder = load_plain(tiny_model, CPU), tmp_path / "pod"
    texts = Texts([range(5, 65), range(90, 150)], "texts.parquet", "CC0-1.0")
    record = convert(PoD(**SMALL), tiny_model, texts, folder, CPU)
    assert record["weights"]["name"] == "pod"
    assert json.loads((folder / "config.json").read_text())["pod"] == {
        "groups": [[0, 1]], "first": 2, "recent": 7, "trained": False,
    }  # fmt: skip
    made = load_plain(str(folder), CPU)
    assert made.config._attn_implementation == GROUPED
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, made.state_dict()[name])
    ids = torch.arange(20, 60)[None]
    near, far = (
        (one(input_ids=ids, use_cache=False).logits[0] - before(input_ids=ids).logits[0]).abs().amax(-1)
        for one in (before, made)
    )
    assert near.max() == 0
    assert far[:9].max() < 1e-4 < far[12:].min()  # nothing is distant before

    options = {"policy": {"name": "full"}, "dtype": "float32", "device": "cpu"}
    with pytest.raises(UnsupportedModelError, match="converted by pod and not trained"):
        Engine.from_pretrained(str(folder), **options)
    for change in (KVHeads(num_kv_heads=1), PoD(**SMALL)):
        with pytest.raises(UnsupportedModelError, match="convert what it was made of"):
            check(change, str(folder), tmp_path / "again")

    made.config.pod = made.config.pod | {"trained": True}
    write(made, str(folder), tmp_path / "trained", json.loads((folder / RECORD).read_text()))
    request = Request(id="a", token_ids=tuple(range(20, 220)), sampling=SamplingParams(max_new_tokens=4))
    held = []
    for model in (tiny_model, str(tmp_path / "trained")):
        (done,) = Engine.from_pretrained(model, **options).run([request])
        held.append(done.memory.kv_bytes_peak)
    assert held[1] < 0.9 * held[0]


def test_groups_may_be_given():
    model = random_model(SIX)
    weights = PoD(groups=((0, 1, 2), (4, 5)), **SMALL)
    weights.refuse(model.config)
    assert weights.change(model, []).config.pod["groups"] == [[0, 1, 2], [4, 5]]
    assert Weights.from_spec(weights.to_spec()) == weights
    for groups, message in ((((0, 2),), "neighbouring"), (((5, 6),), r"layers 0\.\.5"), (((1, 2), (2, 3)), "in order")):
        with pytest.raises(SpecError, match=f"weights.groups: .*{message}"):
            PoD(groups=groups, **SMALL).refuse(model.config)


def test_models_and_texts_that_do_not_suit_are_refused():
    with pytest.raises(UnsupportedModelError, match="gemma2: pod knows llama, mistral, qwen2, qwen3"):
        PoD().refuse(Gemma2Config(**SIZES))
    with pytest.raises(UnsupportedModelError, match="mistral: layers that see a window"):
        PoD().refuse(MistralConfig(**SIZES, sliding_window=32))
    with pytest.raises(UnsupportedModelError, match="one layer has no neighbours"):
        PoD().refuse(LlamaConfig(**SIZES | {"num_hidden_layers": 1}))
    with pytest.raises(SpecError, match=r"weights\.num_tokens: got 132: no token is distant"):
        PoD(num_tokens=132).refuse(SIX)
    with pytest.raises(SpecError, match="source: no text of more than 132 tokens"):
        PoD().change(random_model(CONFIGS["llama"]), TEXTS)
