"""In what form entries are kept where none is named: by policy, model and dtype, and as a config alone tells it."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from corm_batch import Engine, Request, SamplingParams
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.ensemble import Ensemble, Need
from corm_batch.engine.loader import load_model
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.usual_storage import usual_storage
from corm_batch.ops.pages import entry_columns, page_bytes
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.corm import Corm
from corm_batch.policies.full import Full
from corm_batch.storage.int8 import Int8
from tests.engine.test_families import FAMILIES

SHAPE = ModelShape(2, 4, 2, 64, 128, 1000, plain_keys=True)
HEADS = {"name": "uniform", "max_kept": 24}
SHORT = KVPolicy.from_spec({"name": "snapkv", "recent": 8, "window": 8, "budget": HEADS})


@pytest.mark.parametrize(
    ("form", "policy", "dtype", "changes"),
    [
        ("int8", Corm(), torch.bfloat16, {}),
        ("int8", Corm(), torch.float16, {}),
        ("int8", SHORT, torch.bfloat16, {"head_dim": 80}),
        ("model", Corm(), torch.float32, {}),
        ("model", Full(), torch.bfloat16, {}),
        ("model", Corm(), torch.bfloat16, {"plain_keys": False}),
        ("model", Corm(), torch.bfloat16, {"head_dim": 63}),
    ],
)
def test_whole_numbers_where_a_model_of_16_bits_bears_them_and_entries_leave(form, policy, dtype, changes):
    assert usual_storage(policy, replace(SHAPE, **changes), dtype).name == form


def test_policies_that_evict_say_so_and_full_alone_keeps_all():
    shipped = KVPolicy.registered().values()
    assert [one.name for one in shipped if one.__module__.startswith("corm_batch.") and one.keeps_all] == ["full"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_plain_keys_has_no_bias_of_them(family):
    """Fused projections have the bias of keys among others."""
    config = FAMILIES[family]()
    with torch.device("meta"), no_init_weights():
        module = AutoModelForCausalLM.from_config(config)
    making = [part for name, part in module.named_modules() if name.endswith(("k_proj", "qkv_proj", "query_key_value"))]
    assert len(making) == 2
    plain = ModelShape.from_config(config).plain_keys
    assert not plain or all(part.bias is None for part in making)
    assert plain == (not family.startswith(("qwen2", "gpt", "gemma3")))


@pytest.mark.parametrize("name", ["attention_bias", "qkv_bias"])
def test_a_bias_that_a_config_tells_of_is_seen(name):
    config = FAMILIES["llama"]()
    setattr(config, name, True)
    assert not ModelShape.from_config(config).plain_keys


def test_an_engine_stores_so_unless_a_form_is_named(tiny_llama):
    def held(policy, dtype="bfloat16", **config):
        config |= {"policy": policy, "dtype": dtype, "device": "cpu", "kv_memory": "4MiB", "page_size": 1}
        engine = Engine.from_pretrained(tiny_llama, **config)
        sampling = SamplingParams(max_new_tokens=4, ignore_eos=True)
        (done,) = engine.run([Request("a", list(range(60)), sampling)])
        entries = sum(done.memory.kept_per_layer)
        columns = entry_columns(engine.cache.form, 16, getattr(torch, dtype), engine.policy.columns)
        assert done.memory.kv_bytes_final == entries * page_bytes(1, columns)
        return engine.cache.form.name

    assert (held(SHORT), held(SHORT, "float32"), held(Full())) == ("int8", "model", "model")
    assert (held(SHORT, storage="model"), held(SHORT, "float32", storage="int8")) == ("model", "int8")


def test_policies_side_by_side_store_as_each_would_by_itself(tiny_llama):
    model = load_model(tiny_llama, torch.bfloat16, torch.device("cpu"))
    needs = {one.name: Need(one, model, EngineConfig(page_size=4)) for one in (Full(), SHORT)}
    ensemble = Ensemble(needs, 1 << 22, 80)
    assert {label: engine.cache.form.name for label, engine in ensemble.engines.items()} == {
        "full": "model", "snapkv": "int8"
    }  # fmt: skip
    whole = page_bytes(4, entry_columns(Int8(), 16, torch.bfloat16, SHORT.columns))
    assert needs["snapkv"].num_bytes(8) == 2 * 2 * 2 * whole
    sampling = SamplingParams(max_new_tokens=4, ignore_eos=True)
    (found,) = ensemble.run([Request("a", list(range(60)), sampling)])
    assert all(done.error is None for done in found.values())
    assert found["snapkv"].memory.kv_bytes_full == found["full"].memory.kv_bytes_full
