"""Models in 8 bits, quantised as they are read or stored so, against weights and inputs that are rounded by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig

from corm_batch.engine.fp8 import Fp8Linear
from corm_batch.engine.loader import load_model
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import ModelLoadError, SpecError, UnsupportedModelError
from corm_batch.ops.scaled import FP8, dequantize, quantize_blocks, quantize_rows
from tests.conftest import llama_config, save_random_model

CPU = torch.device("cpu")
WIDE = {"hidden_size": 160, "intermediate_size": 272, "head_dim": 48, "num_key_value_heads": 2}
PROMPT = torch.tensor([[5, 6, 7, 3, 9, 150, 2] * 3])
CHANNEL = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}


def compressed(weights, inputs):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group},
            "ignore": ["lm_head"]}  # fmt: skip


CHECKPOINTS = {
    "rows": (compressed(CHANNEL, TOKEN), "rows", "weight_scale", None),
    "tensor": (compressed({**CHANNEL, "strategy": "tensor"}, {**TOKEN, "dynamic": False, "strategy": "tensor"}),
               "tensor", "weight_scale", "input_scale"),
    "weights alone": (compressed(CHANNEL, None), "rows", "weight_scale", None),
    "blocks": ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
               "blocks", "weight_scale_inv", None),
    "autofp8": ({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
                "tensor", "weight_scale", "input_scale"),
    "activation_scale": ({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
                         "tensor", "weight_scale_inv", "activation_scale"),
}  # fmt: skip


def quantise(weight, how):
    """Numbers and scales, as a checkpoint has them."""
    if how == "rows":
        return quantize_rows(weight)
    if how == "tensor":
        scale = weight.abs().max() / 448
        return (weight / scale).to(FP8), scale
    height, width = (-(-size // 128) for size in weight.shape)
    scale = torch.stack([quantize_rows(part.reshape(1, -1))[1][0, 0]
                         for rows in weight.split(128) for part in rows.split(128, dim=1)])  # fmt: skip
    scale = scale.view(height, width)
    spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: weight.shape[0], : weight.shape[1]]
    return (weight / spread).to(FP8), scale


def store(folder, name):
    """Turn a saved model into a checkpoint of 8-bit weights."""
    settings, how, scale_name, input_name = CHECKPOINTS[name]
    path, config = Path(folder, "model.safetensors"), Path(folder, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": settings}))
    stored = {}
    for key, value in load_file(path).items():
        stored[key] = value
        if ".layers." in key and value.ndim == 2:
            layer = key.removesuffix(".weight")
            stored[key], stored[f"{layer}.{scale_name}"] = quantise(value, how)
            if input_name:
                stored[f"{layer}.{input_name}"] = torch.tensor([0.02])
    save_file(stored, path, metadata={"format": "pt"})


def by_hand(folder, how, static=False, quantises_inputs=True):
    """Logits of transformers' own model whose weights, and inputs of its layers, are rounded as numbers of 8 bits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    blocks = how == "blocks"

    def round_input(module, args):
        value = args[0].flatten(0, -2)
        scale = torch.tensor(0.02) if static else None
        numbers = quantize_blocks(value) if blocks else quantize_rows(value, scale)
        return (dequantize(*numbers).view(args[0].shape),)

    for layer in model.model.layers:
        for part in layer.modules():
            if isinstance(part, torch.nn.Linear):
                number, scale = quantise(part.weight.data, how)
                part.weight.data = number.float() * scale if scale.ndim == 0 else dequantize(number, scale)
                if quantises_inputs:
                    part.register_forward_pre_hook(round_input)
    with torch.inference_mode():
        return model(PROMPT, use_cache=False).logits


def logits(model):
    model.module.set_attn_implementation("eager")
    with torch.inference_mode():
        return model.module(PROMPT, use_cache=False).logits


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def linears(model):
    return {name: part for name, part in model.module.named_modules() if isinstance(part, torch.nn.Linear)}


@pytest.fixture
def folder(tmp_path):
    return save_random_model(llama_config(**WIDE), tmp_path / "model")


def test_weights_are_quantised_row_by_row_as_they_are_read(folder):
    model = load_model(folder, torch.float32, CPU, weights="fp8")
    expected = by_hand(folder, "rows")
    plain = logits(load_model(folder, torch.float32, CPU))
    found = {name for name, part in linears(model).items() if isinstance(part, Fp8Linear)}
    assert found == {name for name in linears(model) if ".layers." in name}
    assert len(found) == 14
    assert all(part.weight.dtype == FP8 for part in linears(model).values() if isinstance(part, Fp8Linear))
    assert model.module.lm_head.weight.dtype == model.module.model.embed_tokens.weight.dtype == torch.float32
    ours = logits(model)
    assert 0.02 < distance(plain, ours) < 0.5
    assert distance(ours, expected) < 1e-3


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_stored_checkpoint_runs_as_it_is(name, folder, caplog):
    _, how, _, static = CHECKPOINTS[name]
    expected = by_hand(folder, how, bool(static), name != "weights alone")
    store(folder, name)
    with caplog.at_level(logging.WARNING):
        model = load_model(folder, torch.float32, CPU)
    assert distance(logits(model), expected) < 0.01  # a number between two others may go to either
    layers = [part for key, part in linears(model).items() if ".layers." in key]
    assert all(isinstance(part, Fp8Linear) for part in layers)
    assert type(model.module.lm_head) is torch.nn.Linear
    if name == "weights alone":
        assert {part.weight.dtype for part in layers} == {torch.float32}
        assert "14 of 14 linear layers stored in fp8 run in torch.float32: the checkpoint leaves their" in caplog.text
    else:
        assert {part.weight.dtype for part in layers} == {FP8}
        assert not caplog.records
    again = load_model(folder, torch.float32, CPU, weights="fp8")  # it is already
    assert torch.equal(logits(again), logits(model))


def test_layers_that_do_not_fit_run_in_the_models_dtype(tmp_path, caplog):
    narrow = save_random_model(llama_config(intermediate_size=72), tmp_path / "narrow")
    model = load_model(narrow, torch.bfloat16, CPU, weights="fp8")
    names = {name.rpartition(".")[2] for name, part in linears(model).items() if type(part) is torch.nn.Linear}
    assert names == {"gate_proj", "up_proj", "down_proj", "lm_head"}
    store(narrow, "rows")
    with caplog.at_level(logging.WARNING):
        model = load_model(narrow, torch.bfloat16, CPU)
    assert "6 of 14 linear layers stored in fp8 run in torch.bfloat16: a width is not divisible by 16" in caplog.text
    assert model.module.model.layers[0].mlp.inner.up_proj.weight.dtype == torch.bfloat16


def test_an_engine_answers_with_them(folder):
    engine = Engine.from_pretrained(
        folder, policy={"name": "full"}, dtype="float32", device="cpu", weights="fp8", kv_memory="4MiB"
    )
    (done,) = engine.run([Request("a", PROMPT[0].tolist(), SamplingParams(max_new_tokens=6))])
    model = load_model(folder, torch.float32, CPU, weights="fp8").module
    model.set_attn_implementation("eager")
    ids = model.generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    assert list(done.token_ids) == ids[0, PROMPT.shape[1] :].tolist()


def change(folder, edit):
    path = Path(folder, "model.safetensors")
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight_scale"),
         r"lack model\.layers\.1\.mlp\.up_proj\.weight_scale: .*stored in fp8"),
        (lambda w: w.update({"model.layers.1.mlp.up_proj.weight_scale": torch.ones(3)}), r"scales of the shape \(3,\)"),
        (lambda w: w.update({"model.embed_tokens.weight": w["model.embed_tokens.weight"].to(FP8)}),
         r"'model\.embed_tokens\.weight' is stored in fp8 and is not the weight of a linear layer"),
        (lambda w: w.pop("model.layers.0.mlp.up_proj.weight"), r"lack model\.layers\.0\.mlp\.up_proj\.weight"),
    ],
)  # fmt: skip
def test_what_a_checkpoint_lacks_is_not_made_up(edit, message, folder):
    store(folder, "rows")
    change(folder, edit)
    with pytest.raises(ModelLoadError, match=rf"^[^\n]*{message}"):
        load_model(folder, torch.float32, CPU)


def test_weights_of_another_size_are_refused_while_they_are_quantised(folder):
    path = Path(folder, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 288}))
    with pytest.raises(ModelLoadError, match=r"^[^\n]*$"):
        load_model(folder, torch.float32, CPU, weights="fp8")


def test_an_adapter_is_merged_before_anything_is_quantised(folder, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    found = load_model(str(tmp_path / "adapter"), torch.float32, CPU, weights="fp8").module.model.layers[0].self_attn
    assert torch.equal(found.q_proj.weight.float(), quantize_rows(merged.data)[0].float())
    store(folder, "rows")
    stored = load_model(str(tmp_path / "adapter"), torch.float32, CPU).module.model.layers[0].self_attn
    assert stored.q_proj.weight.dtype == stored.k_proj.weight.dtype == torch.float32
    assert 0 < distance(stored.q_proj.weight, merged) < 0.05


def test_experts_and_what_chooses_them_stay_as_they_are(tmp_path):
    config = MixtralConfig(
        vocab_size=199, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=512, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = load_model(save_random_model(config, tmp_path), torch.float32, CPU, weights="fp8").module
    kinds = {name.rpartition(".")[2]: value.dtype for name, value in model.model.layers[0].named_parameters()}
    assert {part.rpartition(".")[0].rpartition(".")[2] for part, value in model.model.layers[0].named_parameters()
            if value.dtype == FP8} == {"q_proj", "k_proj", "v_proj", "o_proj"}  # fmt: skip
    assert kinds["gate_up_proj"] == torch.float32


def test_other_quantisations_and_forms_are_refused(folder):
    path = Path(folder, "config.json")
    settings = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(
        UnsupportedModelError, match=r"model\.weights: fp8: the checkpoint is quantised with gptq already"
    ):
        load_model(folder, torch.float32, CPU, weights="fp8")
    with pytest.raises(SpecError, match=r"model\.weights: got 'int4', allowed are stored and fp8"):
        Engine.from_pretrained(folder, policy={"name": "full"}, weights="int4")


def test_an_old_gpu_is_refused_by_name(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    message = r"model\.weights: fp8 needs a GPU of compute capability 8\.9 or newer .*: NVIDIA A100 has 8\.0"
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(folder, torch.float32, torch.device("cuda"), weights="fp8")
    store(folder, "blocks")
    with pytest.raises(UnsupportedModelError, match=r"a checkpoint stored in fp8 needs a GPU .* A100 has 8\.0"):
        load_model(folder, torch.float32, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensor", "blocks", "quantised"])
def test_a_gpu_runs_every_form(name, tmp_path, caplog):
    """Layer by layer: what the layers of a random model make of each other's rounding tells nothing of any of them."""
    config = llama_config(hidden_size=512, intermediate_size=1024, head_dim=128)
    folder, form = save_random_model(config, tmp_path / "model"), "fp8" if name == "quantised" else "stored"
    if form == "stored":
        store(folder, name)
    fields = {"policy": {"name": "full"}, "dtype": "bfloat16", "weights": form, "kv_memory": "64MiB"}
    with caplog.at_level(logging.WARNING, logger="corm_batch"):
        ours, theirs = (Engine.from_pretrained(folder, device=device, **fields) for device in ("cuda", "cpu"))
    assert not [record for record in caplog.records if record.name.startswith("corm_batch")]
    expected = {key: part for key, part in linears(theirs.model).items() if isinstance(part, Fp8Linear)}
    assert len(expected) == 14
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for key, other in expected.items():
            value = torch.randn(33, other.in_features, generator=generator).to(torch.bfloat16)
            found = ours.model.module.get_submodule(key)(value.cuda())
            assert distance(found.cpu().float(), other(value).float()) < 0.01, key
    requests = [Request(str(n), PROMPT[0, :n].tolist(), SamplingParams(max_new_tokens=40)) for n in (20, 1, 17)]
    assert [done.error for done in ours.run(requests)] == [None] * 3
    assert ours.pool_bytes_used == 0
