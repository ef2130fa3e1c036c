"""A packed row gives what its sequences give alone, and a meter measures what a plain loop finds."""

import copy
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from infra.training.attention import PACKED, RECENT, WINDOW, Meter, hidden_states

LENGTHS = (37, 1, 90, 64)
BOUNDS = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
VOCABULARY = 101
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16,
    "num_attention_heads": 4, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="module", params=[(Qwen3Config, 2), (LlamaConfig, 4), (LlamaConfig, 1)], ids=str)
def models(request):
    """The same random weights with packed and with eager attention."""
    family, kv_heads = request.param
    torch.manual_seed(0)
    config = family(**SHAPE, num_key_value_heads=kv_heads)
    packed = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation=PACKED, dtype=torch.float32
    ).eval()
    for parameter in packed.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    eager = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    eager.load_state_dict(packed.state_dict())
    assert packed.config._attn_implementation == PACKED
    return packed, eager


def draw_ids(seed=0):
    return torch.randint(VOCABULARY, (sum(LENGTHS),), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def packed_logits(model, ids, cu_seqlens=BOUNDS):
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    settings = {"cu_seqlens": cu_seqlens, "max_seqlen": max(LENGTHS), "use_cache": False}
    return model(input_ids=ids[None], position_ids=positions[None], **settings).logits[0]


def test_a_packed_row_gives_the_logits_of_each_sequence_alone(models):
    packed, eager = models
    ids = draw_ids()
    with torch.no_grad():
        alone = torch.cat([eager(input_ids=part[None], use_cache=False).logits[0] for part in ids.split(LENGTHS)])
        together = eager(input_ids=ids[None], use_cache=False).logits[0]
    got = packed_logits(packed, ids)
    torch.testing.assert_close(got, alone, atol=1e-4, rtol=1e-4)
    assert (got - together).abs().max() > 0.1  # the bounds matter here


def test_a_repeated_end_adds_no_sequence(models):
    packed, _ = models
    padded = torch.cat([BOUNDS, BOUNDS[-1:].expand(20)])
    assert torch.equal(packed_logits(packed, draw_ids(), padded), packed_logits(packed, draw_ids()))


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_sequences_do_not_see_each_other(models, changed):
    packed, _ = models
    ids = draw_ids()
    other = [part.clone() for part in ids.split(LENGTHS)]
    other[changed] = (other[changed] + 1) % VOCABULARY
    before, after = (packed_logits(packed, row).split(LENGTHS) for row in (ids, torch.cat(other)))
    for index, (one, two) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one, two) == (index != changed)


def test_a_token_does_not_see_those_behind_it(models):
    packed, _ = models
    ids, place = draw_ids(), LENGTHS[0] + LENGTHS[1] + 50
    other = ids.clone()
    other[place] = (other[place] + 1) % VOCABULARY
    one, two = packed_logits(packed, ids), packed_logits(packed, other)
    assert torch.equal(one[:place], two[:place])
    assert not torch.equal(one[place:], two[place:])


@torch.no_grad()
def test_hidden_states_count_positions_from_the_start_of_each_sequence(models):
    packed, eager = models
    ids = draw_ids()
    padded = torch.cat([BOUNDS, BOUNDS[-1:].expand(20)])
    with torch.autocast("cpu", torch.bfloat16):
        got = hidden_states(packed, ids, padded, max(LENGTHS))
        alone = torch.cat(
            [
                eager.model(inputs_embeds=eager.model.embed_tokens(part).bfloat16()[None], use_cache=False)[0][0]
                for part in ids.split(LENGTHS)
            ]
        )
    assert got.shape == (sum(LENGTHS), SHAPE["hidden_size"])
    error = (got - alone).float().norm() / alone.float().norm()
    assert error < 0.03  # bfloat16 keeps eight bits
    together = eager.model(input_ids=ids[None], use_cache=False)[0][0]
    assert (together - alone).float().norm() / alone.float().norm() > 0.2


def measure_by_loop(query_THD, key_TKD, scale):
    """Important, first and kept as their definitions read, one query after the other in double precision."""
    query_THD, key_TKD = query_THD.double(), key_TKD.double()
    (num_tokens, num_heads), num_kv_heads = query_THD.shape[:2], key_TKD.shape[1]
    important = seen = 0
    first = []
    kept = torch.zeros(num_kv_heads, num_tokens, dtype=torch.bool)
    kept[:, max(0, num_tokens - RECENT) :] = True
    for t in range(max(0, num_tokens - WINDOW), num_tokens):
        for head in range(num_heads):
            kv_head = head * num_kv_heads // num_heads
            attention = (key_TKD[: t + 1, kv_head] @ query_THD[t, head] * scale).softmax(0)
            found = attention >= 1 / (t + 1)
            important += found.sum().item()
            seen += t + 1
            first.append(attention[0].item())
            kept[kv_head, : t + 1] |= found
    return {"important": important / seen, "first": sum(first) / len(first), "kept": kept.double().mean().item()}


def draw_heads(num_tokens, heads, kv_heads, sharpness):
    generator = torch.Generator().manual_seed(num_tokens + heads + kv_heads)
    query = torch.randn(num_tokens, heads, 8, generator=generator) * sharpness
    return query, torch.randn(num_tokens, kv_heads, 8, generator=generator)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
@pytest.mark.parametrize("num_tokens", [5, WINDOW, 600])
def test_a_meter_finds_what_a_plain_loop_finds(num_tokens, heads, kv_heads):
    query, key = draw_heads(num_tokens, heads, kv_heads, sharpness=6.0)
    meter = Meter()
    meter.measure(query, key, 8**-0.5)
    (got,) = meter.layers
    assert got == pytest.approx(measure_by_loop(query, key, 8**-0.5), abs=1e-5)
    assert 0 < got["important"] < 1
    assert (got["kept"] == 1) == (num_tokens <= RECENT)  # all of them are recent


def test_a_key_is_kept_when_one_query_head_of_its_group_finds_it_important_once():
    num_tokens, old = 600, 7
    key, query = torch.zeros(num_tokens, 2, 2), torch.zeros(num_tokens, 4, 2)
    key[-RECENT:, :, 0] = 100.0  # every query head looks at recent keys ...
    query[..., 0] = 1.0
    key[old, 0, 1] = 200.0
    query[-9, 1, 1] = 1.0  # ... but the second head of the first group, which looks at an old one from one place
    meter = Meter()
    meter.measure(query, key, 1.0)
    assert meter.layers[0]["kept"] == pytest.approx((2 * RECENT + 1) / (2 * num_tokens))


@torch.no_grad()
def test_a_meter_passed_to_the_model_sees_every_layer_and_changes_nothing(models):
    packed, _ = models
    ids, bounds, meter = draw_ids(), torch.tensor([0, sum(LENGTHS)], dtype=torch.int32), Meter()
    with torch.autocast("cpu", torch.bfloat16):
        measured = hidden_states(packed, ids, bounds, len(ids), meter)
        plain = hidden_states(packed, ids, bounds, len(ids))
    assert torch.equal(measured, plain)
    assert len(meter.layers) == SHAPE["num_hidden_layers"]
    assert all(0 <= share <= 1 and math.isfinite(share) for layer in meter.layers for share in layer.values())
    assert meter.layers[0] != meter.layers[1]
