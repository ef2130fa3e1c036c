"""The entries that the engine keeps are those that kvpress keeps, on the same prompt of the same model."""

import json
from pathlib import Path

import pytest
import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.loader import load_model
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.policies.base import KVPolicy
from infra.measure.kvpress_policies import KVZIP_CHUNK, POSITIONS_CHUNK, kvzip, policies
from tests.conftest import REFERENCE_MODEL

RESULTS = Path(__file__).parents[3] / "infra/measure/results"
RECORD, SMOLLM2 = (json.loads((RESULTS / f"kvpress_positions{model}.json").read_text()) for model in ("", "-smollm2"))
PROMPT = [int(token) for token in RECORD["prompt"].split()]
POLICIES = policies(len(PROMPT) // 2, len(PROMPT), POSITIONS_CHUNK)


def tokens(bits):
    return {token for token in range(len(PROMPT)) if bits >> token & 1}


LEAST = {"ObservedAttention": 0.995}
"""There the newest entry has to be among the highest means, of the one query that has seen it; here it stays."""


def agreement(model, record, name):
    """Share of the entries kvpress keeps that the engine keeps; it keeps as many in every head."""
    policy = kvzip(len(PROMPT) // 2, KVZIP_CHUNK, record["kvzip_asked"]) if name == "KVzip" else POLICIES[name]
    engine = EngineCore(model, KVPolicy.from_spec(policy), EngineConfig.parse({"kv_memory": "128MiB"}))
    prompt = [int(token) for token in record["prompt"].split()]
    request = Request("prompt", prompt, SamplingParams(max_new_tokens=1), return_kept_positions=True)
    (answer,) = engine.run([request])
    theirs = [[tokens(int(head, 16)) for head in layer] for layer in record["kept"][name]]
    same = total = 0
    for layer, other in zip(answer.kept_positions, theirs, strict=True):
        assert [len(head) for head in layer] == [len(head) for head in other]
        same += sum(len(set(head) & kept) for head, kept in zip(layer, other, strict=True))
        total += sum(map(len, other))
    return same / total


@pytest.fixture(scope="module")
def model():
    return load_model(str(REFERENCE_MODEL), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("name", [*POLICIES, "KVzip"])
def test_kept_positions_are_those_of_kvpress(name, model):
    # the rest: scores that two libraries' arithmetic orders differently
    assert agreement(model, RECORD, name) >= LEAST.get(name, 0.999)


@pytest.fixture(scope="module")
def smollm2(released_model):
    return load_model(released_model, torch.float32, torch.device("cpu"))


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["ExpectedAttention", "Compactor", "KVzip"])
def test_those_of_a_released_model_too(name, smollm2):
    assert agreement(smollm2, SMOLLM2, name) >= 0.999


def test_every_press_is_compared():
    assert [*POLICIES, "KVzip"] == list(RECORD["kept"]) == list(SMOLLM2["kept"])
