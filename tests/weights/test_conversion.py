"""A converted model is an ordinary folder: the engine loads it, fingerprints know it, its record says whence."""

import json
from pathlib import Path

import pytest
import torch

from corm_batch import Engine, Request, SamplingParams
from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.errors import OutputError, SpecError, UnsupportedModelError
from corm_batch.pipeline.model import revision_hash
from corm_batch.spec import ModelSection
from corm_batch.text.tokenize import PromptTokenizer
from corm_batch.weights.conversion import RECORD, Texts, check, convert
from corm_batch.weights.kv_heads import KVHeads

WEIGHTS, CPU = KVHeads(num_kv_heads=1), torch.device("cpu")


def texts(first):
    return Texts([range(first + start, first + start + 40) for start in (5, 90, 33)], "texts.parquet", "CC0-1.0")


def test_a_converted_folder_is_a_model_of_its_own(tiny_model, tmp_path):
    one, other = tmp_path / "models" / "one", tmp_path / "other"
    record = convert(WEIGHTS, tiny_model, texts(0), one, CPU)
    assert record == json.loads((one / RECORD).read_text())
    assert record["weights"] == {"name": "kv_heads", "num_kv_heads": 1, "num_texts": 16, "num_tokens": 512}
    assert (record["model"], record["weights_sha256"]) == (tiny_model, weights_sha256(tiny_model))
    told = record["texts"]
    assert (told["source"], told["license"], told["texts"], told["tokens"]) == ("texts.parquet", "CC0-1.0", 3, 120)
    convert(WEIGHTS, tiny_model, texts(400), other, CPU)
    assert json.loads((other / RECORD).read_text())["texts"]["sha256"] != told["sha256"]
    hashes = {revision_hash(ModelSection(name=str(folder))) for folder in (tiny_model, one, other)}
    assert len(hashes) == 3

    read, before = (PromptTokenizer.from_pretrained(str(folder)).text_ids("Ten boats.") for folder in (one, tiny_model))
    assert read == before
    request = Request(id="a", token_ids=tuple(range(20, 60)), sampling=SamplingParams(max_new_tokens=4))
    held = {}
    for folder in (tiny_model, one):
        engine = Engine.from_pretrained(str(folder), policy={"name": "full"}, dtype="float32", device="cpu")
        (done,) = engine.run([request])
        held[folder] = done.memory.kv_bytes_peak
        assert len(done.token_ids) == 4
    assert 2 * held[one] == held[tiny_model]


def test_nothing_is_loaded_or_written_for_what_cannot_be(tiny_model, tmp_path):
    with pytest.raises(SpecError, match=f"--output {tmp_path}: is there already"):
        check(WEIGHTS, tiny_model, tmp_path)
    with pytest.raises(SpecError, match="expected a local folder"):
        check(WEIGHTS, tiny_model, Path("s3://bucket/model"))
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    config = json.loads(Path(tiny_model, "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UnsupportedModelError, match="is quantised with gptq"):
        check(WEIGHTS, str(quantised), tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/new"):
        convert(WEIGHTS, tiny_model, texts(0), tmp_path / "file" / "new", CPU)
