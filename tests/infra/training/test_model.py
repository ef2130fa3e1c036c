"""Settings say how a run goes; models start fresh or from a folder, and every parameter is trained once."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models

from infra.training.model import Settings, build, optimizers, save
from tests.infra.training.conftest import QUICKSTART

SETTINGS = Settings("qwen3", "tiny", None, "muon", 1e-2, 1e6, 2, 1000, 0)


def test_the_rate_warms_up_stays_and_falls_to_zero():
    rate, steps = SETTINGS.rate, SETTINGS.steps
    assert (steps, SETTINGS.rows) == (500, 1000)
    warm = [rate(step, 0.1) for step in range(10)]  # a slow start does not spend the warm-up
    assert warm == pytest.approx([SETTINGS.lr * (step + 1) / 10 for step in range(10)])
    assert {rate(20, done) for done in (0.0, 0.1, 0.39)} == {SETTINGS.lr}
    assert rate(20, 0.7) == pytest.approx(SETTINGS.lr / 2)
    assert rate(20, 1) == rate(20, 1.2) == 0


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """Folder of a tiny model from another seed."""
    folder = tmp_path_factory.mktemp("saved")
    save(build(replace(SETTINGS, seed=1), tokenizer), QUICKSTART / "model", folder)
    return folder


def test_a_model_goes_on_from_the_weights_of_another(tokenizer, saved):
    fresh, other = (build(replace(SETTINGS, seed=seed), tokenizer).state_dict() for seed in (0, 1))
    found = build(replace(SETTINGS, start=str(saved)), tokenizer).state_dict()
    for name, weight in found.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, other[name].bfloat16().float())
    assert any(not torch.equal(weight, fresh[name]) for name, weight in found.items())


def test_a_model_of_another_size_architecture_or_tokenizer_is_no_start(tokenizer, saved):
    settings = replace(SETTINGS, start=str(saved))
    with pytest.raises(SystemExit, match=r"(?s)not a model of the run's architecture and size.*size mismatch"):
        build(replace(settings, size="half"), tokenizer)
    with pytest.raises(SystemExit, match="not a model of the run's architecture and size"):
        build(replace(settings, architecture="llama"), tokenizer)
    other = Tokenizer(models.BPE())
    other.add_special_tokens(["<|document|>", "<|end|>"])
    with pytest.raises(SystemExit, match="its tokenizer is not the run's"):
        build(settings, other)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_only_matrices_decay(tokenizer, name):
    model = build(SETTINGS, tokenizer)
    groups = [group for optimizer in optimizers(model, name, 1e-3) for group in optimizer.param_groups]
    owned = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    for group in groups:
        assert {parameter.ndim for parameter in group["params"]} == ({2} if group["weight_decay"] else {1})
