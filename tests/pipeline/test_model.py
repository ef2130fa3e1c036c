import shutil
from pathlib import Path

import boto3
import pytest
import ray

from corm_batch.errors import ModelLoadError
from corm_batch.pipeline import model as module
from corm_batch.pipeline.model import model_loader, model_path, revision_hash
from corm_batch.spec import ModelSection
from tests.fakes import MODEL


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(MODEL, copy)
    return copy


def test_hash_follows_the_files_not_the_place(folder):
    before = revision_hash(ModelSection(name=str(folder)))
    assert before == revision_hash(ModelSection(name=str(Path(MODEL).resolve())))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert revision_hash(ModelSection(name=str(folder))) != before


def test_hash_leaves_out_what_only_people_read(folder):
    section = ModelSection(name=str(folder))
    before = revision_hash(section)
    (folder / "README.md").write_text("another card")
    (folder / "LICENSE").write_text("terms")
    assert revision_hash(section) == before


def test_hash_of_large_files_is_sampled(folder, monkeypatch):
    monkeypatch.setattr(module, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(module, "_SAMPLE_BYTES", 1000)
    section, weights = ModelSection(name=str(folder)), folder / "model.safetensors"
    before = revision_hash(section)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert revision_hash(section) != before


def test_no_model_there(tmp_path):
    with pytest.raises(ModelLoadError, match=r"model\.name"):
        revision_hash(ModelSection(name=str(tmp_path)))


@pytest.mark.s3
def test_s3_folder_is_fetched_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    client, name = boto3.client("s3"), bucket.removeprefix("s3://")
    for file in Path(MODEL).iterdir():
        client.upload_file(str(file), name, f"models/small/{file.name}")
    section = ModelSection(name=f"{bucket}/models/small")
    path = Path(model_path(section))
    assert path.is_relative_to(tmp_path)
    assert revision_hash(section) == revision_hash(ModelSection(name=str(Path(MODEL).resolve())))
    assert model_path(section) == str(path)
    with pytest.raises(ModelLoadError, match="no files there"):
        model_path(ModelSection(name=f"{bucket}/nothing"))


def test_loads_engine_and_tokenizer(job):
    model = model_loader(job({"a": "text"}))()
    assert model.engine.max_model_len == 8192
    # 64 MiB over 10 layers x 6 kv heads x 64 numbers x 4 bytes x (key + value)
    assert model.pool_tokens == 64 * 2**20 // (10 * 6 * 64 * 4 * 2)


@pytest.mark.parametrize(
    ("device", "gpus", "loaded_on"), [("auto", [0], "cuda"), ("auto", [], "auto"), ("cpu", [0], "cpu")]
)
def test_replica_that_was_given_a_gpu_never_falls_back_to_the_cpu(job, monkeypatch, device, gpus, loaded_on):
    def refuse(path, **settings):
        raise ModelLoadError(settings["device"])

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: gpus)
    monkeypatch.setattr(module.Engine, "from_pretrained", refuse)
    with pytest.raises(ModelLoadError, match=f"^{loaded_on}$"):
        model_loader(job({"a": "text"}, model={"device": device}))()
