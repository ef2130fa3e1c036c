"""Merged kv heads: nothing is lost where one head can stand for a group, and what is lost is what does not project."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen2Config, Qwen3Config

from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.weights.base import Weights
from corm_batch.weights.kv_heads import KVHeads

SIZES = {
    "vocab_size": 97, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SIZES | {"num_key_value_heads": 2}),
    "qwen2, with biases": Qwen2Config(**SIZES),
    "qwen3, normalised": Qwen3Config(**SIZES),
}
TEXTS = [torch.randint(0, 97, (60,), generator=torch.Generator().manual_seed(seed)) for seed in range(6)]


def random_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # biases and norms, too
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.ndim > 1 else 0.7, std=0.3)
    return model


@torch.no_grad()
def logits(model, ids=TEXTS[0]):
    return model(input_ids=ids[None]).logits[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_as_many_heads_as_before_are_the_same_model(name):
    model = random_model(CONFIGS[name])
    same = KVHeads(num_kv_heads=model.config.num_key_value_heads).change(model, TEXTS)
    torch.testing.assert_close(logits(same), logits(model), atol=2e-4, rtol=1e-3)


def alike(model, group):
    """Has the heads of each group cache one another's keys, each frequency turned and scaled, and values in others'
    directions: what one head can stand for."""
    size, draw = model.config.head_dim, torch.Generator().manual_seed(5)
    for layer in model.model.layers:
        key, value = (
            getattr(layer.self_attn, name).weight.data.unflatten(0, (-1, group, size)) for name in ("k_proj", "v_proj")
        )
        for head in range(1, group):
            turn = torch.randn(size // 2, generator=draw) + 1j * torch.randn(size // 2, generator=draw)
            turned = torch.complex(*key[:, 0].chunk(2, dim=1)) * turn[:, None]
            key[:, head] = torch.cat((turned.real, turned.imag), dim=1)
            value[:, head] = torch.randn(size, size, generator=draw) @ value[:, 0]
    return model


def test_what_one_head_can_stand_for_is_kept_wherever_it_stands():
    model = alike(random_model(LlamaConfig(**SIZES)), 2)
    merged = KVHeads(num_kv_heads=2).change(model, TEXTS)
    assert merged.config.num_key_value_heads == 2
    assert merged.model.layers[0].self_attn.k_proj.weight.shape == (16, 24)
    later = TEXTS[1].repeat(3)  # other positions and texts than it was found on
    torch.testing.assert_close(logits(merged, later), logits(model, later), atol=1e-4, rtol=1e-3)


def test_fewer_heads_lose_more_and_less_than_their_mean_does():
    model = random_model(Qwen2Config(**SIZES))
    group = {name: weight.clone() for name, weight in model.state_dict().items()}
    for name, weight in group.items():
        if ".k_proj." in name or ".v_proj." in name:
            heads = weight.unflatten(0, (2, 2, 8))
            heads.copy_(heads.mean(dim=1, keepdim=True).expand_as(heads).clone())
    mean = random_model(Qwen2Config(**SIZES))
    mean.load_state_dict(group)

    def lost(other):
        return float((logits(other).softmax(-1) - logits(model).softmax(-1)).abs().mean())

    two, one = (KVHeads(num_kv_heads=count).change(model, TEXTS) for count in (2, 1))
    assert 0 < lost(two) < min(lost(one), lost(mean))


def test_the_model_stays_as_it_is():
    model = random_model(CONFIGS["qwen3, normalised"])
    before = logits(model)
    KVHeads(num_kv_heads=1).change(model, TEXTS)
    assert torch.equal(logits(model), before)
    assert model.config.num_key_value_heads == 4


def test_what_does_not_suit_is_refused():
    with pytest.raises(UnsupportedModelError, match="gemma2: kv_heads knows llama, mistral, qwen2, qwen3"):
        KVHeads(num_kv_heads=1).refuse(Gemma2Config(**SIZES))
    with pytest.raises(SpecError, match=r"weights\.num_kv_heads: got 3, the model has 4: allowed are 1, 2"):
        KVHeads(num_kv_heads=3).refuse(LlamaConfig(**SIZES))
    with pytest.raises(SpecError, match=r"weights\.num_kv_heads: .* greater than or equal to 1, got 0"):
        Weights.from_spec({"name": "kv_heads", "num_kv_heads": 0})
