"""Weights that are the model's, all of them and no others; adapters merged into them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MambaConfig

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import ModelLoadError, UnsupportedModelError
from tests.conftest import llama_config, save_random_model

PROMPT = [5, 6, 7] * 5


def engine_of(folder):
    return Engine.from_pretrained(str(folder), policy={"name": "full"}, dtype="float32", device="cpu", kv_memory="4MiB")


def change_weights(folder, change):
    path = Path(folder, "model.safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(folder, **changes):
    path = Path(folder, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path):
    return save_random_model(llama_config(attention_bias=True), tmp_path / "model")


def test_a_weight_that_is_missing_is_not_made_up(folder):
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelLoadError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight$"):
        engine_of(folder)


def test_a_weight_without_a_place_in_the_config_is_not_passed_over(folder):
    change_config(folder, attention_bias=False)
    with pytest.raises(ModelLoadError, match=r"have .*\.bias.* and 5 more, for which its config\.json has no place"):
        engine_of(folder)
    change_config(folder, attention_bias=True, num_hidden_layers=1, layer_types=None)
    with pytest.raises(ModelLoadError, match=r"have model\.layers\.1\..*no place"):
        engine_of(folder)


def test_weights_of_another_size_are_one_line(folder):
    change_config(folder, intermediate_size=72)
    with pytest.raises(ModelLoadError, match=r"^[^\n]*cannot load the weights of [^\n]*$"):
        engine_of(folder)


def test_a_weight_the_model_has_no_use_for_is_no_harm(folder):
    change_weights(folder, lambda weights: weights.update({"vision.tower.weight": torch.zeros(2)}))
    engine_of(folder)


def test_a_quantised_checkpoint_that_cannot_be_loaded_is_named(folder):
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32})
    with pytest.raises(ModelLoadError, match=r"^[^\n]*, which is quantised with gptq: [^\n]+$"):
        engine_of(folder)


@pytest.fixture
def adapter(folder, tmp_path):
    """A LoRA adapter, beside its model; and the greedy answer of the two together."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([PROMPT])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    return tmp_path / "adapter", out[0, len(PROMPT) :].tolist()


def answer(engine):
    (done,) = engine.run([Request("a", PROMPT, SamplingParams(max_new_tokens=12))])
    return list(done.token_ids)


def test_an_adapter_is_merged_into_the_model_its_config_names(adapter, folder):
    place, expected = adapter
    assert answer(engine_of(place)) == expected != answer(engine_of(folder))
    path = place / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "base_model_name_or_path": "../model"}))
    assert answer(engine_of(place)) == expected


def test_an_adapter_that_lacks_weights_is_refused(adapter):
    place, _ = adapter
    path = place / "adapter_model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"^[^\n]*adapter.*cannot be merged.*missing adapter keys[^\n]*$"):
        engine_of(place)


def test_a_model_without_attention_layers_is_refused(tmp_path):
    config = MambaConfig(vocab_size=199, hidden_size=32, num_hidden_layers=2, state_size=4)
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="mamba"):
        Engine.from_pretrained(str(tmp_path), policy={"name": "full"}, dtype="float32", device="cpu")
