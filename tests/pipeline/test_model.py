import asyncio
import json
import re
import shutil
from pathlib import Path

import boto3
import pytest
import ray

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import ModelLoadError, SpecError, UnsupportedModelError
from corm_batch.output.settings import AnswerSettings
from corm_batch.pipeline import model as module
from corm_batch.pipeline.model import (
    answers_version,
    check_model,
    load_tokenizer,
    model_loader,
    model_path,
    revision_hash,
)
from corm_batch.pipeline.plan import plan_job
from corm_batch.pipeline.row_builder import row_builder
from corm_batch.pipeline.worker import EngineActor, WorkerSettings
from corm_batch.policies.base import KVPolicy
from corm_batch.spec import ModelSection
from corm_batch.tasks.base import Prompt
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


@pytest.fixture
def changed(tmp_path, model_without_weights):
    """Call with changes to JSON files of the quick start's model, None for a file to leave out; the new folder."""

    def change(**files):
        folder = tmp_path / "changed"
        shutil.copytree(model_without_weights, folder, dirs_exist_ok=True)
        for name, changes in files.items():
            path = folder / (name + (".jinja" if name == "chat_template" else ".json"))
            if changes is None:
                path.unlink()
            else:
                content = {**json.loads(path.read_text()), **changes}
                path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return str(folder)

    return change


def checked(job, folder, task=None, **model):
    spec = job({"a": "text"}, model={"name": folder, **model}, task=task or {})
    return check_model(spec).about


def test_a_model_in_order_needs_no_word(job):
    assert checked(job, MODEL) == []


SHORT = {"name": "snapkv", "recent": 8, "window": 8, "budget": {"name": "uniform", "max_kept": 24}}


@pytest.mark.parametrize(
    ("form", "dtype", "policy", "engine", "said"),
    [
        ("int8", "bfloat16", SHORT, {}, True),
        ("bfloat16", "bfloat16", SHORT, {"storage": "model"}, False),
        ("bfloat16", "bfloat16", {"name": "full"}, {}, False),
        ("float32", "float32", SHORT, {}, False),
        ("int8", "float32", SHORT, {"storage": "int8"}, False),
    ],
)
def test_replicas_store_as_plan_run_and_rows_say(form, dtype, policy, engine, said, job, tiny_model):
    spec = job({"a": "word " * 200}, model={"name": tiny_model, "dtype": dtype}, engine={"page_size": 1, **engine})
    spec = spec.model_copy(update={"policy": KVPolicy.from_spec(policy)})
    model = check_model(spec)
    assert [line for line in model.about if "stored as int8; engine.storage: model stores" in line] == model.about
    assert len(model.about) == said
    settings = AnswerSettings.of(spec, "hash", model.version, model.usual_storage(spec))
    stored = model.settled(spec)
    rows = row_builder(stored, "hash", settings, "run-1", spec.splits())
    actor = EngineActor(WorkerSettings.of(stored, rows, model_loader(stored), 60.0))

    async def main():
        await actor.load()
        (split,) = spec.splits()
        return [await actor.process(document) for document in spec.source.read(split, spec.task.columns_read)]

    (row,) = asyncio.run(main())
    assert (row.result["status"], row.memory["dtype"]) == ("ok", form)
    planned, name = plan_job(spec), form if form == "int8" else "model"
    assert (planned.storage, stored.engine.form.name) == (name, name)
    assert row.memory["kv_bytes_final"] == sum(row.memory["kept_per_layer"]) * planned.page_bytes_per_token // 4


def test_a_model_without_any_end_token_is_refused_unless_the_task_says_what_ends_an_answer(job, changed):
    no_end = {"eos_token_id": None}
    folder = changed(config=no_end, generation_config=no_end, tokenizer_config={"eos_token": None})
    assert checked(job, folder) == []  # the template ends an answer
    template = Path(folder, "chat_template.jinja")
    template.write_text(template.read_text().replace("<|end|>", ""))
    with pytest.raises(ModelLoadError, match=r"no end token in generation_config\.json, config\.json, tokenizer or"):
        checked(job, folder)
    assert checked(job, folder, {"stop": "\n"}) == []
    assert checked(job, folder, {"stop_token_ids": 4}) == []


def test_weights_in_8_bits_are_said_and_those_that_cannot_be_refused(job, changed):
    (note,) = checked(job, MODEL, weights="fp8")
    assert re.fullmatch(
        r"\d\d% of the model's weights are quantised to fp8 as it is loaded: the linear .* blocks", note
    )
    (note,) = checked(job, changed(config={"intermediate_size": 1000}), weights="fp8")
    assert re.search(r"but for 30 of 70, of widths not divisible by 16$", note)
    stored = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    folder = changed(config={"quantization_config": stored})
    for form in ("stored", "fp8"):
        (note,) = checked(job, folder, weights=form)
        assert note == "the weights are stored in fp8 (fp8) and stay so; inputs are quantised row by row"
    before, now = (job({"a": "text"}, model={"name": name}) for name in (MODEL, folder))
    assert answers_version(now, None) == answers_version(before, None) + 1
    with pytest.raises(
        UnsupportedModelError, match=r"model\.weights: fp8: the checkpoint is quantised with awq already"
    ):
        checked(job, changed(config={"quantization_config": {"quant_method": "awq"}}), weights="fp8")


def test_a_missing_template_is_said_and_a_role_that_needs_it_refused(job, changed):
    folder = changed(chat_template=None)
    (note,) = checked(job, folder, document_role="user", system="Be brief.")
    assert "no chat template" in note
    assert "model.system, document and instruction" in note
    with pytest.raises(ModelLoadError, match=r"model\.document_role: document"):
        checked(job, folder)


def test_a_tokenizer_larger_than_the_embedding_is_said_and_one_that_no_prompt_survives_refused(job, changed):
    (note,) = checked(job, changed(config={"vocab_size": 8000}))
    assert "tokens up to 8191" in note
    assert "8000 rows" in note
    with pytest.raises(ModelLoadError, match=r"every prompt has the token.*another model's"):
        checked(job, changed(config={"vocab_size": 5}))


def test_a_tokenizer_that_garbles_a_plain_sentence_is_said(job, changed):
    """As another model's class does, which cuts words at marks that this vocabulary does not have."""
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
    (note,) = checked(job, changed(tokenizer={"pre_tokenizer": marks}))
    assert "'Aplainsentenceofwords,12ofthemin" in note
    assert "of 'A plain sentence of words, 12 of them in all.', and the model reads that" in note


def test_a_stop_token_is_one_of_the_model_s(job):
    with pytest.raises(SpecError, match=r"task\.stop_token_ids: 8192: the model has the tokens 0\.\.8191"):
        checked(job, MODEL, {"stop_token_ids": [4, 8192]})


def test_settings_of_generation_config_are_told_or_refused(job, changed):
    folder = changed(generation_config={"repetition_penalty": 1.1, "typical_p": 0.5})
    (note,) = checked(job, folder)
    assert "generation_config.json is followed: repetition_penalty 1.1" in note
    with pytest.raises(UnsupportedModelError, match=r"typical_p: 0\.5.*task\.temperature"):
        checked(job, folder, {"temperature": 0.7})
    assert checked(job, folder, {"temperature": 0.7}, generation_config="ignore") == []
    with pytest.raises(UnsupportedModelError, match="num_beams: 4"):
        checked(job, changed(generation_config={"num_beams": 4}))


def test_the_version_rises_where_the_model_answers_otherwise_than_before(job, changed):
    """Before: no rules of generation_config.json, and the end tokens of that file or else of config.json alone."""

    def version(folder, task=None, **model):
        spec = job({"a": "text"}, model={"name": folder, **model}, task=task or {})
        found = check_model(spec).version
        assert found == answers_version(spec, load_tokenizer(spec.model, spec.model.name))
        return found

    sampled = {"temperature": 0.7}
    assert version(MODEL) == version(MODEL, sampled) == 1
    drawn = changed(generation_config={"top_k": 20, "top_p": 0.8, "temperature": 0.6, "do_sample": True})
    assert (version(drawn), version(drawn, sampled)) == (1, 2)
    assert version(drawn, sampled, generation_config="ignore") == 1
    drawn = changed(generation_config={"top_p": 0.8})
    assert (version(drawn, sampled), version(drawn, {**sampled, "top_p": 0.5})) == (2, 1)
    assert version(changed(generation_config={"repetition_penalty": 1.1})) == 2
    assert version(changed(generation_config={"repetition_penalty": 1.0})) == 1
    assert version(changed(generation_config={"eos_token_id": 0})) == 2  # the tokenizer's ends an answer since
    assert version(changed(generation_config={"eos_token_id": None})) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 0}, "num_heads=0"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"num_attention_heads": "six"}, "num_attention_heads"),
        ({"model_type": ["x"]}, "unhashable"),
        ({"model_type": "unheard-of"}, "unheard-of"),
        ({"kv_lora_rank": 8}, "latent attention"),
        ({"quantization_config": 5}, "cannot load"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_line(job, changed, config, message):
    with pytest.raises((ModelLoadError, UnsupportedModelError), match=message) as caught:
        checked(job, changed(config=config))
    assert "\n" not in str(caught.value)


def test_a_quantised_checkpoint_is_said(job, changed):
    (note,) = checked(job, changed(config={"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert "quantised with gptq" in note


def test_wrong_end_of_sequence_in_the_configs_does_not_keep_an_answer_going(job, tmp_path):
    """The configs name token 0; tokenizer and chat template end a turn with <|end|>."""
    folder = tmp_path / "wrong_eos"
    shutil.copytree(MODEL, folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 0}))
    model = model_loader(job({"a": "text"}, model={"name": str(folder)}))()
    assert model.engine.model.eos_token_ids == {0, 4}
    ids = model.tokenizer.encode(Prompt("The secret code of the blue gate is 4711.", "What is the secret code?"))
    (done,) = model.engine.run([Request("a", ids, SamplingParams(max_new_tokens=24))])
    assert done.finish_reason == "stop"
    assert done.token_ids[-1] == 4


@pytest.mark.parametrize(
    ("verify", "room"), [(None, False), ({"share": 0}, False), ({"share": 0.1}, True), ({"share": 1}, True)]
)
def test_a_job_that_verifies_leaves_room_for_its_passes(job, monkeypatch, verify, room):
    asked = {}

    def load(path, **fields):
        asked.update(fields)
        raise ModelLoadError("far enough")

    monkeypatch.setattr(Engine, "from_pretrained", load)
    with pytest.raises(ModelLoadError, match="far enough"):
        model_loader(job({"a": "text"}, **({} if verify is None else {"verify": verify})))()
    assert asked["room_for_scoring"] is room


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
    monkeypatch.setattr(Engine, "from_pretrained", refuse)
    with pytest.raises(ModelLoadError, match=f"^{loaded_on}$"):
        model_loader(job({"a": "text"}, model={"device": device}))()
