"""Model families, small and random: packed, paged greedy tokens against transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GptOssConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from tests.conftest import llama_config, save_random_model

SMALL = {
    "vocab_size": 199, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
WINDOWED = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": lambda: llama_config(),
    "qwen2": lambda: Qwen2Config(**SMALL),
    "qwen2-window": lambda: Qwen2Config(**SMALL, use_sliding_window=True, **WINDOWED),
    "qwen3": lambda: Qwen3Config(**SMALL, head_dim=16),
    "mistral": lambda: MistralConfig(**SMALL, head_dim=12, sliding_window=None),
    "mistral-window": lambda: MistralConfig(**SMALL, head_dim=12, sliding_window=10),
    "gemma2": lambda: Gemma2Config(
        **SMALL, **WINDOWED, head_dim=16, attn_logit_softcapping=4.0, query_pre_attn_scalar=16
    ),
    "gemma3": lambda: Gemma3TextConfig(**SMALL, **WINDOWED, head_dim=16, query_pre_attn_scalar=16),
    "phi3": lambda: Phi3Config(**SMALL),
    "phi3-window": lambda: Phi3Config(**SMALL, sliding_window=9),
    "gpt_neox": lambda: GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}, rotary_pct=0.5),
    "gpt_oss": lambda: GptOssConfig(**SMALL, **WINDOWED, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
}
LENGTHS = (41, 1, 17)


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_those_of_transformers(family, prefill, tmp_path):
    folder = save_random_model(FAMILIES[family](), tmp_path)
    engine = Engine.from_pretrained(
        folder, policy={"name": "full"}, dtype="float32", device="cpu", kv_memory="4MiB", prefill=prefill, chunk_size=7
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    draw = torch.Generator().manual_seed(3)
    prompts = [torch.randint(199, (n,), generator=draw).tolist() for n in LENGTHS]
    sampling = SamplingParams(max_new_tokens=16, ignore_eos=True)
    answers = {c.id: c for c in engine.run([Request(str(i), p, sampling) for i, p in enumerate(prompts)])}
    for i, prompt in enumerate(prompts):
        own = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist()
        assert list(answers[str(i)].token_ids) == own
    assert engine.pool_bytes_used == 0


def test_sliding_window_layers_hold_their_window_whatever_the_policy(tmp_path):
    folder = save_random_model(FAMILIES["gemma3"](), tmp_path)
    engine = Engine.from_pretrained(
        folder, policy={"name": "full"}, dtype="float32", device="cpu", kv_memory="4MiB", compact_every=1
    )
    sampling = SamplingParams(max_new_tokens=10, ignore_eos=True)
    (answer,) = engine.run([Request("a", list(range(40)), sampling, return_kept_positions=True)])
    windowed, full = answer.kept_positions
    assert windowed == (tuple(range(49 - 11, 49)),) * 2  # what the next query would see beside itself
    assert full == (tuple(range(49)),) * 2
    assert answer.memory.kept_per_layer == (22, 98)
