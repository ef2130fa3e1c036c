"""Layers that run some of the rows: which models can, and which are refused by name."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch.engine.attention import ATTENTION, run_layers_once
from corm_batch.engine.narrowing import let_rows_leave
from corm_batch.errors import UnsupportedModelError
from tests.conftest import llama_config
from tests.engine.test_families import FAMILIES


def make(config):
    module = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).eval()
    run_layers_once(module)
    return module


def let(module):
    let_rows_leave(module, 199, 0, "toy")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_and_answers_others_as_before(family):
    module = make(FAMILIES[family]())
    module.set_attn_implementation("eager")
    ids = torch.arange(9)[None]
    before = module(input_ids=ids, use_cache=False).logits
    module.set_attn_implementation(ATTENTION)
    let(module)
    let(module)
    module.set_attn_implementation("eager")
    assert torch.equal(module(input_ids=ids, use_cache=False).logits, before)


def test_a_model_whose_later_layers_need_more_of_every_token_is_refused():
    """One that remembers the embeddings of all tokens and adds them in its last layer."""
    module = make(llama_config())
    first, last = module.model.layers
    kept = {}
    first.register_forward_pre_hook(lambda layer, args: kept.update(hidden=args[0]))
    last.register_forward_pre_hook(lambda layer, args: (args[0] + kept["hidden"],))
    with pytest.raises(UnsupportedModelError, match=r"^toy: engine.propagation is not supported: "):
        let(module)


def test_a_model_that_takes_rows_for_positions_is_refused():
    """No error: other logits."""
    module = make(llama_config())
    last = module.model.layers[1]
    bias = torch.randn(64, 1)
    last.register_forward_pre_hook(lambda layer, args: (args[0] + 9 * bias[: args[0].shape[1]],))
    with pytest.raises(UnsupportedModelError, match=r"other logits \(relative distance"):
        let(module)


def test_a_model_without_a_list_of_layers_is_refused():
    module = make(llama_config())
    module.model.layers = torch.nn.Identity()
    with pytest.raises(UnsupportedModelError, match="list of layers"):
        let(module)
