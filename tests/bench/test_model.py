"""A model made on the device: all its weights are set, and engine and transformers agree on what it says."""

import torch

from corm_batch.bench.engine_run import random_prompts
from corm_batch.bench.model import own_attention, random_model
from corm_batch.engine.attention import ATTENTION
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.fp8 import Fp8Linear
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.ops.scaled import FP8, dequantize

CPU = torch.device("cpu")


def test_weights_are_normal_and_norms_are_one(small):
    module = random_model(small.model, torch.bfloat16, CPU).module
    for parameter in module.parameters():
        assert parameter.dtype == torch.bfloat16
        if parameter.ndim == 1:
            assert (parameter == 1).all()
        else:
            assert 0.018 < parameter.float().std() < 0.022
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == small.model.step_parameters + small.model.vocab_size * small.model.hidden_size


def test_greedy_tokens_equal_those_of_transformers(small):
    model = random_model(small.model, torch.float32, CPU)
    for parameter in model.module.parameters():
        parameter.data.mul_(10 if parameter.ndim > 1 else 1)  # wide enough apart that no two logits tie
    prompts = random_prompts(small, 7, 3)
    requests = [
        Request(str(i), ids, SamplingParams(max_new_tokens=8, ignore_eos=True)) for i, ids in enumerate(prompts)
    ]
    engine = Engine(model, small.policy("full"), EngineConfig(max_sequences=4))
    ours = {completion.id: list(completion.token_ids) for completion in engine.run(requests)}
    with own_attention(model.module):
        ids = torch.tensor(prompts)
        answers = model.module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert [ours[str(i)] for i in range(3)] == answers[:, 96:].tolist()
    assert model.module.config._attn_implementation == ATTENTION


def test_8_bit_weights_are_those_of_the_same_draw(small):
    plain, narrow = (random_model(small.model, torch.float32, CPU, weights=form).module for form in ("stored", "fp8"))
    layers = [name for name, part in narrow.named_modules() if isinstance(part, Fp8Linear)]
    assert len(layers) == 7 * small.model.num_layers
    for name in layers:
        part, weight = narrow.get_submodule(name), plain.get_submodule(name).weight
        assert part.weight.dtype == FP8
        assert (dequantize(part.weight, part.weight_scale) - weight).norm() < 0.05 * weight.norm()
    assert torch.equal(narrow.lm_head.weight, plain.lm_head.weight)
    assert torch.equal(narrow.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    assert not any(tensor.is_meta for tensor in (*narrow.parameters(), *narrow.buffers()))
