"""Which layer decides, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.propagation import base
from corm_batch.propagation.base import Propagation, propagation_problem
from corm_batch.registry import load_plugin


def make(**fields):
    return Propagation.from_spec({"name": "attention", **fields})


@pytest.mark.parametrize(
    ("layer", "windows", "index"),
    [
        ("half", [None] * 32, 15),
        ("half", [None] * 30, 14),
        ("half", [None] * 3, 0),
        ("half", [None] * 2, 0),
        ("half", [9, 9, 9, 9, None, 9], 4),  # the nearest that sees everything
        ("half", [None, 9, None, 9], 0),
        ("half", [9, None] * 4, 3),
        (3, [None, 9, None, 9], 2),
        (1, [None] * 2, 0),
    ],
)
def test_the_layer_that_decides_sees_everything_and_has_one_behind_it(layer, windows, index):
    assert make(layer=layer).deciding_layer(windows) == index


@pytest.mark.parametrize(
    ("layer", "windows", "told"),
    [
        (4, [None] * 4, "layer: 4: this layer of the model's 4 has none behind it; allowed are 1, 2, 3"),
        (9, [None] * 4, "layer: 9: this layer of the model's 4 has none behind it"),
        (2, [None, 9, None, 9], "layer: 2: this layer of the model's 4 sees a window alone; allowed are 1, 3"),
        ("half", [9] * 4, "none but the last sees a whole prompt"),
        ("half", [None], "none but the last"),
    ],
)
def test_a_layer_that_cannot_decide_is_refused(layer, windows, told):
    with pytest.raises(SpecError, match=told):
        make(layer=layer).deciding_layer(windows)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "attention", "share": 0}, "^engine.propagation.share: .*greater than 0, got 0$"),
        ({"name": "attention", "share": 1.5}, "^engine.propagation.share: "),
        ({"name": "attention", "pooling": 4}, r"^engine.propagation: pooling \(4\) must be odd"),
        ({"name": "attention", "layer": "third"}, "^engine.propagation.layer.*half"),
        ({"name": "attention", "recent": 0}, "^engine.propagation.recent: "),
        ({"name": "attention", "width": 1}, "^engine.propagation.width: unknown key; known here: layer, window"),
        ({"name": "cumulative", "coverage": 2}, "^engine.propagation.coverage: "),
        ({"name": "fastkv"}, "(?s)^engine.propagation.name: no propagation is called 'fastkv'; there are:.*attention"),
        ("attention", "^engine.propagation: expected a mapping with a name, got 'attention'"),
    ],
)
def test_what_is_wrong_is_told_with_its_path(given, told):
    with pytest.raises(SpecError, match=told):
        EngineConfig.parse({"propagation": given})


def test_settings_come_back_as_they_were_given():
    config = EngineConfig.parse({"propagation": {"name": "cumulative", "block": 32, "layer": 3}})
    again = EngineConfig.parse(config.model_dump(mode="json"))
    assert again == config
    assert again.propagation.layer == 3
    assert EngineConfig().propagation is None


def test_a_policy_that_reads_behind_a_prompt_sees_all_of_it():
    kvzip = KVPolicy.from_spec({"name": "kvzip", "first_ids": [1], "later_ids": [1], "closing_ids": [1]})
    assert "policy.name: kvzip" in propagation_problem(make(), kvzip)
    assert propagation_problem(None, kvzip) is None
    assert propagation_problem(make(), KVPolicy.from_spec({"name": "full"})) is None


def test_the_example_of_the_folders_page_is_one(leave_no_plugin, tmp_path):
    page = Path(base.__file__).with_name("README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "above.py").write_text(code)
    (above,) = load_plugin(str(tmp_path / "above.py"))
    score, stay = torch.tensor([0.1, 5.0, 0.0, 3.0]), torch.tensor([False, False, True, False])
    kept = EngineConfig.parse({"propagation": {"name": "above", "least": 0.5}}).propagation.keep_rows(score, stay)
    assert kept.tolist() == [False, True, True, False]
    assert above.name == "above"
