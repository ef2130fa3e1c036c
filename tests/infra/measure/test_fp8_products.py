"""Layers are in 8 bits while they are measured, those that were asked for alone, and as they were afterwards."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch.engine.fp8 import Fp8Linear
from infra.measure import fp8_products
from infra.measure.fp8_products import FORMS, compare, in_8_bits, main, read
from tests.conftest import llama_config, save_random_model

PROMPTS, ANSWERS = [list(range(5, 25)), list(range(30, 45))], [[7, 9, 11], [3, 4]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = llama_config(num_hidden_layers=3)
    return str(save_random_model(config, tmp_path_factory.mktemp("model")))


@pytest.fixture
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("form", "expected"),
    [("all", 21), ("attention", 12), ("gate and up", 6), ("down", 3), ("inputs alone", 0),
     ("all but the first and last block", 7)],
)  # fmt: skip
def test_what_was_asked_for_is_in_8_bits(model, form, expected):
    exact = list(read(model, PROMPTS, ANSWERS))
    with in_8_bits(model, form):
        assert sum(isinstance(part, Fp8Linear) for part in model.modules()) == expected
        found = compare(exact, list(read(model, PROMPTS, ANSWERS)), ANSWERS)
    assert found["divergence"]["mean"] > 1e-7
    assert not any(isinstance(part, Fp8Linear) for part in model.modules())
    again = compare(exact, list(read(model, PROMPTS, ANSWERS)), ANSWERS)
    assert again["nats"] == again["divergence"] == {"mean": 0, "error": 0}


def test_figures_by_hand():
    before, after = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log(), torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log()
    found = compare([before, before], [after, before], [[0, 1], [0, 1]])
    assert found["nats"]["mean"] == pytest.approx(torch.tensor(2.0).log().item() / 4)
    divergence = 0.5 * torch.tensor([2.0, 2 / 3]).log().sum().item()
    assert found["divergence"] == {"mean": pytest.approx(divergence / 4), "error": pytest.approx(divergence / 4)}


def test_the_record_holds_every_form_and_those_of_before(folder, tmp_path, monkeypatch, capsys):
    class Asked:
        """Two prompts of one suite."""

        name = "tiny"

        def __init__(self, job):
            self.folder = folder

        def cases(self, suite, lengths, count):
            return [type("Case", (), {"prompt": tuple(prompt)}) for prompt in PROMPTS]

    monkeypatch.setattr(fp8_products, "AskedModel", Asked)
    output = tmp_path / "record.json"
    output.write_text(json.dumps({"results": {"other": {}, "tiny": {"all": {"before": 1}}}}))
    main(["--forms", *FORMS[1:], "--output", str(output), "--max-new-tokens", "4"])
    found = json.loads(output.read_text())["results"]
    assert found["other"] == {}
    assert set(found["tiny"]) == set(FORMS)
    assert found["tiny"]["all"] == {"before": 1}
    assert all(found["tiny"][form]["divergence"]["mean"] > 0 for form in FORMS[1:])
    capsys.readouterr()
