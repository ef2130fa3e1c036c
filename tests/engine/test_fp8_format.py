"""What is read off a config of 8-bit weights."""

import pytest

from corm_batch.engine.fp8_format import StoredFp8, foreign_quantization, refuse_quantizing, stored_fp8
from corm_batch.errors import UnsupportedModelError
from tests.conftest import llama_config
from tests.engine.test_fp8_loading import CHANNEL, CHECKPOINTS, TOKEN, compressed


def config_of(settings, **changes):
    config = llama_config(**changes)
    config.quantization_config = settings
    return config


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_known_formats(name):
    settings, _, _, static = CHECKPOINTS[name]
    found = stored_fp8(config_of(settings))
    inputs = "none" if name == "weights alone" else "static" if static else "dynamic"
    assert found == StoredFp8(settings["quant_method"], inputs)
    assert foreign_quantization(config_of(settings)) is None
    refuse_quantizing(config_of(settings), "fp8")
    assert "are stored in fp8" in str(found)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
        {"quant_method": "fp8", "fmt": "e5m2"},
        {"quant_method": "fp8", "activation_scheme": "odd"},
        compressed({**CHANNEL, "type": "int"}, TOKEN),
        compressed({**CHANNEL, "num_bits": 4}, TOKEN),
        compressed({**CHANNEL, "strategy": "group"}, TOKEN),
        compressed({**CHANNEL, "strategy": "block", "block_structure": [64, 64]}, TOKEN),
        compressed(CHANNEL, {**TOKEN, "type": "int"}),
        {"quant_method": "compressed-tensors", "config_groups": {"a": 5}},
        {"quant_method": "compressed-tensors", "config_groups": [1]},
        {"quant_method": "compressed-tensors"},
        {},
    ],
)
def test_other_formats_are_somebody_elses(settings):
    config = config_of(settings)
    assert stored_fp8(config) is None
    if not settings:
        refuse_quantizing(config, "fp8")
        return
    assert foreign_quantization(config) == settings["quant_method"]
    refuse_quantizing(config, "stored")
    with pytest.raises(UnsupportedModelError, match=r"is quantised with .* already"):
        refuse_quantizing(config, "fp8")


def test_experts_are_somebody_elses():
    config = config_of(CHECKPOINTS["blocks"][0])
    config.num_experts = 8
    assert stored_fp8(config) is None
    assert foreign_quantization(config) == "fp8"
