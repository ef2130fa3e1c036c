"""What a folder is, said in one line."""

from __future__ import annotations

import json
import sys

import pytest
from transformers import AutoConfig

from corm_batch.engine import checkpoint
from corm_batch.engine.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_config,
    merge_adapter,
    quantization,
    weights_sha256,
)
from corm_batch.engine.open import Engine
from corm_batch.errors import ModelLoadError, SpecError, UnsupportedModelError
from tests.conftest import llama_config


def test_a_folder_with_a_model_and_a_hub_id_are_themselves(tmp_path, monkeypatch):
    llama_config().save_pretrained(tmp_path)
    assert find_checkpoint(str(tmp_path), "v1") == Checkpoint(str(tmp_path), "v1")
    monkeypatch.setattr(checkpoint, "find_adapter_config_file", lambda name, revision: None)
    assert find_checkpoint("some/model", "v1") == Checkpoint("some/model", "v1")


def test_formats_that_are_not_read_are_named(tmp_path):
    weights = tmp_path / "model-Q4_K_M.gguf"
    weights.write_bytes(b"GGUF")
    for path in (weights, tmp_path, tmp_path / "missing.GGUF"):
        with pytest.raises(UnsupportedModelError, match=r"is a GGUF file: .*safetensors"):
            load_config(str(path))


@pytest.mark.parametrize(
    ("name", "message"), [("missing", "no folder"), ("empty", r"no config\.json"), ("notes.txt", "is a file")]
)
def test_what_is_no_model_is_named(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelLoadError, match=rf"^model\.name: [^\n]*{message}[^\n]*$"):
        load_config(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["mistral3", "clip", "t5"])
def test_a_model_that_writes_no_text_by_itself_is_refused_by_its_type(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UnsupportedModelError, match=f"transformers has no causal language model of type '{kind}'"):
        load_config(str(tmp_path))


@pytest.mark.parametrize("content", ["{not json", "", "[]", "[" * 5000 + "]" * 5000, '{"model_type": ["x"]}', "\0"])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match=rf"^model\.name: [^\n]*{tmp_path}[^\n]*$"):
        load_config(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_model_name_or_path": "/nowhere/base"}, "adapter of the model '/nowhere/base': there is no such folder"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path: got None"),
        ({}, "'base_model_name_or_path' is missing"),
        ([], "cannot read"),
    ],
)
def test_an_adapter_whose_model_cannot_be_found_says_so(tmp_path, settings, message):
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError, match=message):
        load_config(str(tmp_path))


def test_an_adapter_of_a_hub_id_that_cannot_be_reached_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(*args, **options):
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base-of-ours"}))
    with pytest.raises(ModelLoadError, match=r"adapter of the model 'some/base-of-ours', which cannot.*path of a copy"):
        load_config(str(tmp_path))


def test_the_tokenizer_is_the_adapter_s_where_it_has_one(tmp_path):
    adapter = Checkpoint("base", "v1", adapter=str(tmp_path), adapter_revision="v2")
    assert adapter.tokenizer == ("base", "v1")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert adapter.tokenizer == (str(tmp_path), "v2")


def test_merging_needs_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelLoadError, match=r"needs peft: pip install 'corm-batch\[lora\]'"):
        merge_adapter(None, Checkpoint("base", None, adapter="folder"))


@pytest.mark.parametrize(
    ("settings", "method"), [({"quant_method": "fp8"}, "fp8"), ({"bits": 4}, "unknown"), (None, None), ({}, None)]
)
def test_the_quantisation_is_read_off_the_config(settings, method):
    config = llama_config()
    if settings is not None:
        config.quantization_config = settings
    assert quantization(config) == method


@pytest.mark.parametrize(
    "policy",
    [lambda scores: {"name": "duo_attention", "scores": scores},
     lambda scores: {"name": "snapkv", "budget": {"name": "headkv", "scores": scores}}],
)  # fmt: skip
def test_a_table_of_heads_that_was_measured_on_other_weights_is_refused(policy, tiny_llama, tiny_llama_mha, tmp_path):
    scores, file = [[1.0, 0.0, 0.3, 0.1], [0.5, 0.2, 0.0, 0.4]], tmp_path / "heads.json"

    def opened(folder, weights, given=str(file)):
        file.write_text(json.dumps({"model": "tiny", "weights_sha256": weights, "scores": scores}))
        return Engine.from_pretrained(folder, policy=policy(given), dtype="float32", device="cpu", kv_memory="1MiB")

    own = weights_sha256(tiny_llama)
    assert own == weights_sha256(tiny_llama) != weights_sha256(tiny_llama_mha)
    assert opened(tiny_llama, own).shape.num_layers == 2
    assert opened(tiny_llama, None).shape.num_layers == 2
    with pytest.raises(SpecError, match=r"scores: .*heads.json was measured on other weights \(model tiny, sha256"):
        opened(tiny_llama_mha, own)
    assert opened(tiny_llama_mha, own, scores).shape.num_layers == 2
