"""The file that Eigen Attention's directions are in: which it is, and what is said of one that does not fit."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.open import Engine
from corm_batch.errors import SpecError
from corm_batch.output.settings import AnswerSettings
from corm_batch.spec import JobSpec
from corm_batch.storage.base import Projections, Storage
from tests.storage.bases import ERRORS, write_basis


def of(path):
    return Storage.from_spec({"name": "eigen", "basis": path})


def test_a_file_counts_by_its_content_wherever_it_lies(tmp_path, monkeypatch):
    basis = Path(write_basis(tmp_path / "basis.safetensors"))
    monkeypatch.chdir(tmp_path)
    form = of("basis.safetensors")
    assert form.sha256 == hashlib.sha256(basis.read_bytes()).hexdigest()
    assert form.basis == str(basis)
    copy = of(str(shutil.copy(basis, tmp_path / "copy.safetensors")))
    task = {"name": "question_answer", "question": "Which?"}
    job = {"name": "a", "model": {"name": "m"}, "task": task, "source": {"name": "jsonl", "uri": "a"},
           "policy": {"name": "full"}, "output": {"uri": "o"}}  # fmt: skip
    prints = {
        AnswerSettings.of(JobSpec.from_mapping({**job, "engine": {"storage": one.to_spec()}}), "hash").fingerprint
        for one in (form, copy)
    }
    assert len(prints) == 1


def test_a_file_that_has_changed_since_is_told(tmp_path):
    basis = Path(write_basis(tmp_path / "basis.safetensors"))
    form = of(str(basis))
    written = form.to_spec()
    assert Storage.from_spec(written) == of(str(basis))
    write_basis(basis, head_dim=8)
    with pytest.raises(SpecError, match=r"storage\.sha256: .*basis\.safetensors is another file by now"):
        Storage.from_spec(written)
    model = Projections(2, 2, slice(None), 16, lambda layer: (torch.empty(0), torch.empty(0)), list)
    with pytest.raises(SpecError, match=r"engine\.storage\.basis: .* is another file by now than that of sha256"):
        next(iter(form.directions(model)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"engine\.storage\.basis: Field required"),
        (
            {"basis": "/nowhere/b"},
            r"engine\.storage\.basis: no basis there: No such file or directory, got '/nowhere/b'",
        ),
    ],
)
def test_without_a_file_there_is_no_such_form(given, message):
    with pytest.raises(SpecError, match=message):
        EngineConfig.parse({"storage": {"name": "eigen", **given}})


def test_a_file_of_another_model_is_refused(tmp_path, tiny_llama):
    model = Projections(2, 4, slice(2, 4), 16, lambda layer: (torch.empty(0), torch.empty(0)), list)
    fitting = of(write_basis(tmp_path / "fits", num_kv_heads=4))
    keys, values = next(iter(fitting.directions(model)))
    assert (keys.shape, values.shape) == ((2, 16, 12), (2, 16, 16))
    with pytest.raises(
        SpecError, match="of a model of 2 layers, 2 kv heads, 16 numbers a head; this one has 2 layers, 4"
    ):
        next(iter(of(write_basis(tmp_path / "other")).directions(model)))
    (tmp_path / "text").write_text("no basis")
    with pytest.raises(SpecError, match=r"engine\.storage\.basis: .*text holds no basis"):
        next(iter(of(str(tmp_path / "text")).directions(model)))
    assert of(str(tmp_path / "text")).measured_on() is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (lambda key: 1.3 * key, lambda value: value, "holds no basis: directions of key are not orthonormal"),
        (lambda key: key, lambda value: value * torch.nan, "holds no basis: directions of value are not orthonormal"),
        (lambda key: key, lambda value: value[:1], "of a model of 1 layers, 2 kv heads, 16 numbers a head"),
        (lambda key: key[..., :8], lambda value: value[..., :8], r"of a model of shape \[2, 2, 16, 8\]"),
    ],
)
def test_numbers_that_are_no_directions_are_refused(key, value, message, tmp_path):
    tensors = load_file(write_basis(tmp_path / "right"))
    found = {"key": key(tensors["key"]), "value": value(tensors["value"])}
    save_file({name: one.contiguous() for name, one in found.items()}, tmp_path / "wrong")
    model = Projections(2, 2, slice(None), 16, lambda layer: (torch.empty(0), torch.empty(0)), list)
    with pytest.raises(SpecError, match=rf"engine\.storage\.basis: .*wrong .*{message}"):
        next(iter(of(str(tmp_path / "wrong")).directions(model)))


def test_a_file_that_names_other_weights_is_refused(tmp_path, tiny_llama):
    settings = {"policy": {"name": "full"}, "device": "cpu", "kv_memory": "1MiB"}
    ours, others = (
        of(write_basis(tmp_path / weights[:9], weights=weights)) for weights in (weights_sha256(tiny_llama), "0" * 64)
    )
    assert ours.measured_on() == weights_sha256(tiny_llama)
    Engine.from_pretrained(tiny_llama, storage=ours, **settings)
    with pytest.raises(SpecError, match=r"engine\.storage: eigen: .* other weights \(sha256 000000000000\)"):
        Engine.from_pretrained(tiny_llama, storage=others, **settings)


@pytest.mark.parametrize(
    ("error", "ranks"), [(0.3, [(8, 12), (4, 4)]), (0.1, [(12, 16), (4, 12)]), (1e-9, [(16, 16), (16, 16)])]
)
def test_each_layer_has_the_least_ranks_that_put_it_off_by_no_more_than_the_error(error, ranks, tmp_path, tiny_llama):
    basis = write_basis(tmp_path / "basis", errors=ERRORS)
    form = Storage.from_spec({"name": "eigen", "basis": basis, "error": error})
    engine = Engine.from_pretrained(
        tiny_llama, policy={"name": "full"}, dtype="float32", storage=form, device="cpu", kv_memory="1MiB"
    )
    assert [(pages.key.shape[-1], pages.value.shape[-1]) for pages in engine.cache.pool.layers] == ranks
    widths = [column.width for column in form.columns(16, torch.float32)]
    assert widths == [round(sum(each) / 2) for each in zip(*ranks, strict=True)]  # what plan counts with


def test_a_file_that_says_nothing_of_errors_is_told(tmp_path, tiny_llama):
    basis = write_basis(tmp_path / "basis")
    with pytest.raises(SpecError, match=r"storage\.error: .*basis does not say by how much ranks put layers off"):
        Storage.from_spec({"name": "eigen", "basis": basis, "error": 0.1})
    other = write_basis(tmp_path / "other", errors={name: rows[:1] for name, rows in ERRORS.items()})
    form = Storage.from_spec({"name": "eigen", "basis": other, "error": 0.1})
    with pytest.raises(SpecError, match=r"engine\.storage\.basis: .*other has errors of 1 layers"):
        Engine.from_pretrained(tiny_llama, policy={"name": "full"}, storage=form, device="cpu", kv_memory="1MiB")
