"""What tests of several rooms share: models, jobs over a few documents, a Ray cluster."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import settings
from transformers import AutoModelForCausalLM, LlamaConfig

# the same examples in every run, however slow the machine: a test that fails now and then tells nothing
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")
torch.set_num_threads(1)  # tensors here are tiny: threads would only wait for each other
ROOT = Path(__file__).parents[1]
REFERENCE_MODEL = ROOT / "jobs" / "quickstart" / "model"
RUNS_MODELS = {"corm_batch.engine.loader", "scipy", "torch._dynamo", "transformers.modeling_utils", "triton"}
"""Modules that take some 200 MB and seconds to import, for nothing in a process that runs no model."""


def pytest_collection_modifyitems(config, items):
    """Files that start clusters come first: they wait while others work, and none is left alone at the end.

    What needs a GPU is left out where there is none.
    """
    waits = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in waits)
    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look through it again and again."""
    gc.freeze()


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
def tiny_groups(tmp_path_factory):
    """Folder of a tiny random Llama whose second layer sees distant tokens by the first one's keys."""
    pod = {"groups": [[0, 1]], "first": 2, "recent": 6, "trained": True}
    return save_random_model(llama_config(pod=pod), tmp_path_factory.mktemp("tiny_groups"))


@pytest.fixture(scope="session")
def tiny_llama_mha(tmp_path_factory):
    """Folder of a tiny random Llama with a kv head for every query head."""
    return save_random_model(llama_config(num_key_value_heads=4), tmp_path_factory.mktemp("tiny_llama_mha"), seed=1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny random model with the reference model's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_model")
    save_random_model(llama_config(vocab_size=8192, max_position_embeddings=1024), folder)
    for file in REFERENCE_MODEL.glob("*token*"):
        shutil.copy(file, folder)
    for file in REFERENCE_MODEL.glob("chat_template*"):
        shutil.copy(file, folder)
    return str(folder)


@pytest.fixture
def reference_model():
    """Folder of the reference model, big enough for two threads to pay."""
    torch.set_num_threads(2)
    yield str(REFERENCE_MODEL)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def released_model():
    """Folder of SmolLM2-135M-Instruct, fetched with the first test of a clone that asks for it."""
    from infra.models.fetch import PLACES, SMOLLM2, OutOfReachError, fetch

    try:
        return str(fetch(SMOLLM2, PLACES))
    except OutOfReachError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def model_without_weights(tmp_path_factory):
    """Config and tokenizer of the quick start's model: whoever loads weights from here fails."""
    folder = tmp_path_factory.mktemp("model")
    for file in REFERENCE_MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster for all tests; a job finds it and leaves it as it is."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # actors import tests.fakes
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",  # else it would join what an earlier `ray start` left on this machine
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
            num_cpus=max(4, os.cpu_count() or 1),
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory):
    """Where a real S3 server answers, for all tests of this process."""
    from tests.seaweed import seaweed

    with seaweed(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture
def job(tmp_path):
    """Makes a spec over a Parquet file with the given documents."""

    from corm_batch.spec import JobSpec

    def make(documents, **sections):
        source = tmp_path / "documents.parquet"
        write_documents(source, documents)
        data = {
            "name": "job",
            "model": {"name": str(REFERENCE_MODEL), "dtype": "float32", "document_role": "document"},
            "source": {"name": "parquet", "uri": str(source)},
            "task": {"name": "summarize", "max_new_tokens": 8},
            "policy": {"name": "full"},
            "engine": {"kv_memory": "64MiB"},
            "output": {"uri": str(tmp_path / "out")},
        }
        for name, fields in sections.items():
            data[name] = {**data.get(name, {}), **fields}
        return JobSpec.from_mapping(data)

    return make


@pytest.fixture
def tiny_job(tiny_model, tmp_path):
    """Writes the spec of a job of the tiny model over texts by id, in documents.jsonl beside it; returns its path."""

    def write(texts):
        documents = tmp_path / "documents.jsonl"
        rows = ({"id": doc_id, "text": text} for doc_id, text in texts.items())
        documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = {
            "name": "tiny",
            "model": {"name": tiny_model, "dtype": "float32", "document_role": "document"},
            "source": {"name": "jsonl", "uri": str(documents)},
            "task": {"name": "summarize"},
            "output": {"uri": str(tmp_path / "out")},
        }
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
        return str(tmp_path / "job.yaml")

    return write


def write_documents(path, documents):
    """`documents`: id to text, or pairs when an id comes twice."""
    pairs = list(documents.items() if isinstance(documents, dict) else documents)
    table = {"doc_id": [pair[0] for pair in pairs], "text": [pair[1] for pair in pairs]}
    pq.write_table(pa.table(table, schema=pa.schema({"doc_id": pa.string(), "text": pa.string()})), path)


@pytest.fixture
def rows():
    from corm_batch.data.schema import column, memory_schema, result_schema
    from corm_batch.output.rows import RowBuilder

    own = column("score", pa.int64(), "the task's own")
    return RowBuilder("run-1", "print-1", result_schema([own], {}), memory_schema({}), {"policy": "{}"})


@pytest.fixture
def leave_no_plugin():
    """What a test loads from plug-in files is forgotten when it ends."""
    yield
    forget_plugins()


def forget_plugins():
    """As if no plug-in file had been loaded."""
    from corm_batch.plugin_file import PluginFile
    from corm_batch.registry import Plugin

    for kind in Plugin.__subclasses__():
        for name in [name for name, plugin in kind._plugins.items() if PluginFile.of(plugin.__module__)]:
            del kind._plugins[name]
