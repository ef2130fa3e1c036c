"""The file of directions: what a text's keys, queries and values lie in, and one command that writes it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from corm_batch.engine.bases import RebuiltBatch
from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.loader import load_model
from corm_batch.engine.open import Engine
from corm_batch.engine.rotary import find_rotary
from corm_batch.engine.text_batch import TextBatch
from corm_batch.ops.basis import Basis
from infra.measure.eigen_basis import find_directions, find_errors, main
from infra.measure.shared_layers import SharingBatch

TEXTS = [torch.randint(0, 199, (40,), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


@torch.inference_mode()
def test_directions_are_those_of_keys_and_queries_without_position(tiny_llama):
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    found = find_directions(model, TEXTS)
    assert found["key"].shape == found["value"].shape == (2, 2, 16, 16)
    torch.testing.assert_close(found["key"].mT @ found["key"], torch.eye(16).expand(2, 2, -1, -1), rtol=0, atol=1e-5)
    first, states = model.module.model.layers[0], model.module.model.embed_tokens(torch.cat(TEXTS))
    inputs = first.input_layernorm(states)
    query = first.self_attn.q_proj(inputs).view(-1, 2, 2, 16)
    key = first.self_attn.k_proj(inputs).view(-1, 2, 16)
    for head in range(2):
        both = torch.cat((key[:, head], query[:, head].reshape(-1, 16)))
        size = torch.linalg.svd(both.double()).S
        assert (both.double() @ found["key"][0, head].double()).norm(dim=0).tolist() == pytest.approx(
            size.tolist(), 1e-3
        )


@torch.inference_mode()
def test_directions_of_values_are_those_of_what_queries_make_of_them(tiny_llama):
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    found, batch = find_directions(model, TEXTS[:1])["value"], SharingBatch(TEXTS[0], {})
    outs = {}
    attend = batch.attend
    batch.attend = lambda layer, *rest: outs.setdefault(layer, attend(layer, *rest))
    model.forward(batch)
    for layer, out in outs.items():
        for head in range(2):
            made = out[2 * head : 2 * head + 2].reshape(-1, 16).double()
            size = torch.linalg.svd(made).S
            got = (made @ found[layer, head].double()).norm(dim=0)
            assert got.tolist() == pytest.approx(size.tolist(), 1e-3, abs=1e-5)


def test_one_command_writes_a_basis_that_the_engine_takes(tiny_job, tiny_model, tmp_path, capsys):
    job = tiny_job({boat: f"The {boat} boat lay at the river that year. " * 60 for boat in "abcd"})
    path = tmp_path / "basis.safetensors"
    main([job, "--license", "CC0-1.0", "--texts", "3", "--tokens", "40", "--device", "cpu", "--output", str(path)])
    about = json.loads(capsys.readouterr().out)
    assert about["weights_sha256"] == weights_sha256(tiny_model)
    assert (about["texts"]["license"], about["texts"]["texts"], about["texts"]["tokens"]) == ("CC0-1.0", 3, 120)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["about"]) == about
    first = path.read_bytes()
    main([job, "--license", "CC0-1.0", "--texts", "3", "--tokens", "40", "--device", "cpu", "--output", str(path)])
    assert path.read_bytes() == first
    Engine.from_pretrained(
        tiny_model, policy={"name": "full"}, storage={"name": "eigen", "basis": str(path)}, device="cpu",
        kv_memory="1MiB",
    )  # fmt: skip


@torch.inference_mode()
def test_errors_are_what_fewer_directions_change_of_what_attention_hands_on(tiny_llama):
    """Held against the second layer's own parts, run with keys, or values, as the first directions leave them."""
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    found = find_directions(model, TEXTS)
    errors = find_errors(model, TEXTS[:2], found)
    assert {name: one.shape for name, one in errors.items()} == dict.fromkeys(("key_error", "value_error"), (2, 4))
    for one in errors.values():
        assert (one[:, :-1] > one[:, 1:]).all()
        assert (one[:, -1] < 1e-4).all()
    layer, (key, value), whole = model.module.model.layers[1], (found["key"][1], found["value"][1]), torch.eye(16)
    rotary, all_of_them = find_rotary(model, "a test", windows=True), (whole.expand(2, -1, -1),) * 2
    for name, number, cut in (
        ("key_error", 1, (key[..., :8], all_of_them[0])),
        ("value_error", 0, (all_of_them[0], value[..., :4])),
    ):
        means = []
        for ids in TEXTS[:2]:
            states = []
            hook = layer.post_attention_layernorm.register_forward_pre_hook(
                lambda _, given, states=states: states.append(given[0].view(-1, 48))
            )
            bases = [Basis.of(*each, rotary, torch.float32) for each in (all_of_them, cut)]
            for batch in (TextBatch(ids), RebuiltBatch(ids, bases)):
                with torch.compiler.set_stance("force_eager"):
                    model.forward(batch)
            hook.remove()
            means.append(((states[1] - states[0]).norm(dim=-1) / states[0].norm(dim=-1)).mean())
        assert float(errors[name][1, number]) == pytest.approx(float(sum(means) / 2), rel=1e-3)
