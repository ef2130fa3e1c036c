"""Two checkouts side by side, in turn: stand-ins that say what a turn took; this one in a process it has already."""

import io
import json
import sys

import pytest

from corm_batch.errors import SpecError
from infra.measure import compare as module
from infra.measure.compare import compare

STAND_IN = {
    "torch.py": "device = str\nclass cuda:\n    empty_cache = staticmethod(lambda: None)\n",
    "corm_batch/__init__.py": "",
    "corm_batch/bench/__init__.py": "",
    "corm_batch/bench/model.py": "def random_model(model, dtype, device):\n    return device\n",
    "corm_batch/bench/workload.py": """
class Workload:
    model = torch_dtype = None
    policy = str
def find_workload(name, documents):
    return {"tiny-256": Workload()}[name]
""",
    "corm_batch/bench/engine_run.py": """
from types import SimpleNamespace
TURNS = iter(WALL_S)
def measure_engine(model, workload, policy, prefill):
    assert (model, policy, prefill) == ("cpu", "corm", "exact")
    wall_s = next(TURNS)
    return SimpleNamespace(wall_s=wall_s, prefill_tokens_per_s=100 / wall_s, decode_ms_per_step=wall_s / 2)
""",
}


@pytest.fixture
def checkout(tmp_path):
    """Makes a checkout whose turns take so many seconds each."""

    def make(name, *wall_s):
        for path, content in STAND_IN.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content.replace("WALL_S", repr(wall_s)))
        return tmp_path / name

    return make


def test_turns_are_counted_without_the_first_and_the_ratio_is_of_medians(checkout):
    before, after = checkout("before", 99.0, 4.0, 8.0, 5.0), checkout("after", 70.0, 2.0, 2.5, 9.0)
    record = compare(before, after, "tiny-256:1:exact", "cpu", repeats=3)
    assert {side: [turn["wall_s"] for turn in turns] for side, turns in record["turns"].items()} == {
        "before": [4.0, 8.0, 5.0],
        "after": [2.0, 2.5, 9.0],
    }
    assert record["medians"]["before"] == {"wall_s": 5.0, "prefill_tokens_per_s": 20.0, "decode_ms_per_step": 2.5}
    assert record["after_over_before"] == {"wall_s": 0.5, "prefill_tokens_per_s": 2.0, "decode_ms_per_step": 0.5}


def test_a_checkout_that_fails_is_told(checkout):
    sound = checkout("before", 1.0), checkout("after", 1.0)
    with pytest.raises(RuntimeError, match="ended with status 1"):
        compare(*sound, "no-such-workload:1:exact", "cpu", repeats=1)


def test_a_checkout_that_ended_before_its_turn_is_told(checkout):
    one = module.Checkout(checkout("before", 1.0), "no-such-workload:1:exact", "cpu")
    one._process.wait()
    with pytest.raises(RuntimeError, match="ended with status 1"):
        one.turn()
    one.close()


def test_a_turn_of_this_checkout_answers_the_workload(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    monkeypatch.setattr(sys, "argv", ["-c", "tiny-256", "1", "exact", "cpu"])
    exec(module._WORKER, {})
    turns = [json.loads(line.removeprefix("figures ")) for line in capsys.readouterr().out.splitlines()]
    assert [len(turn) for turn in turns] == [3, 3]
    assert all(figure > 0 for turn in turns for figure in turn)
    monkeypatch.setattr(sys, "argv", ["-c", "no-such-workload", "1", "exact", "cpu"])
    with pytest.raises(SpecError, match="no-such-workload"):
        exec(module._WORKER, {})
