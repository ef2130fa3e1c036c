"""The entries that the engine keeps are those that kvpress keeps, on the same prompt of the same model."""

import json
from pathlib import Path

import pytest

from corm_batch import Engine, Request, SamplingParams
from tests.conftest import REFERENCE_MODEL

RECORD = json.loads((Path(__file__).parents[3] / "infra/measure/results/kvpress_positions.json").read_text())
PROMPT = [int(token) for token in RECORD["prompt"].split()]
HALF = {"name": "uniform", "max_kept": len(PROMPT) // 2}
SNAPKV = {"name": "snapkv", "window": 32, "recent": 32, "pooling": 1}
POLICIES = {
    "Knorm": {"name": "l2_norm", "recent": 0, "skip_layers": [], "budget": HALF},
    "KeyDiff": {"name": "keydiff", "recent": 0, "budget": HALF},
    "TOVA": {"name": "tova", "recent": 1, "budget": HALF},  # there the newest entry never leaves
    "SnapKV": {**SNAPKV, "budget": HALF},
    "StreamingLLM": {"name": "streaming_llm", "sinks": 4, "recent": HALF["max_kept"] - 3},  # the next query's included
    "AdaKV of SnapKV": {**SNAPKV, "budget": {**HALF, "name": "adakv", "floor": 0.2}},
}


def tokens(bits):
    return {token for token in range(len(PROMPT)) if bits >> token & 1}


@pytest.mark.parametrize("name", POLICIES)
def test_kept_positions_are_those_of_kvpress(name):
    engine = Engine.from_pretrained(
        str(REFERENCE_MODEL), policy=POLICIES[name], dtype="float32", device="cpu", kv_memory="64MiB"
    )
    request = Request("prompt", PROMPT, SamplingParams(max_new_tokens=1), return_kept_positions=True)
    (answer,) = engine.run([request])
    theirs = [[tokens(int(head, 16)) for head in layer] for layer in RECORD["kept"][name]]
    same = total = 0
    for layer, other in zip(answer.kept_positions, theirs, strict=True):
        assert [len(head) for head in layer] == [len(head) for head in other]
        same += sum(len(set(head) & kept) for head, kept in zip(layer, other, strict=True))
        total += sum(map(len, other))
    assert same >= 0.999 * total  # the rest: scores that two libraries' arithmetic orders differently


def test_every_press_is_compared():
    assert list(POLICIES) == list(RECORD["kept"])
