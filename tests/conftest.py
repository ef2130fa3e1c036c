"""Models for tests: the reference model the quick start ships, and tiny random ones made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

torch.set_num_threads(1)  # tensors here are tiny: threads would only wait for each other
REFERENCE_MODEL = Path(__file__).parents[1] / "jobs" / "quickstart" / "model"


def pytest_collection_modifyitems(items):
    """Leave out what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def save_random_model(config, folder, seed=0):
    """A model with random weights, wide enough apart that no two logits tie; its folder."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return str(folder)


def llama_config(**changes):
    """A Llama of two layers, four query heads and two kv heads."""
    settings = {
        "vocab_size": 199, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False,
        "eos_token_id": None, "bos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    return LlamaConfig(**settings | changes)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Folder of a tiny random Llama with grouped queries."""
    return save_random_model(llama_config(), tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny_llama_mha(tmp_path_factory):
    """Folder of a tiny random Llama with a kv head for every query head."""
    return save_random_model(llama_config(num_key_value_heads=4), tmp_path_factory.mktemp("tiny_llama_mha"), seed=1)


@pytest.fixture
def reference_model():
    """Folder of the reference model, big enough for two threads to pay."""
    torch.set_num_threads(2)
    yield str(REFERENCE_MODEL)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_without_weights(tmp_path_factory):
    """Config and tokenizer of the quick start's model: whoever loads weights from here fails."""
    folder = tmp_path_factory.mktemp("model")
    for file in REFERENCE_MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder
