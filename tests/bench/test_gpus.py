"""Cards by name: figures worked out by hand, and held to what was measured."""

import json
from pathlib import Path
from statistics import median

import pytest
import torch

from corm_batch.bench import gpus
from corm_batch.bench.workload import WORKLOADS
from corm_batch.errors import SpecError
from corm_batch.ops.pages import stored_bytes
from corm_batch.policies.base import KVPolicy
from corm_batch.storage.fp8 import Fp8
from corm_batch.storage.model import Model
from tests.conftest import llama_config

MEASURED = Path(__file__).parents[2] / "infra/measure/results"
LLAMA = llama_config(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    head_dim=128, vocab_size=128256,
)  # fmt: skip
SETTINGS = {
    "dtype": "bfloat16", "output_tokens": 256, "prefill": "exact", "chunk_size": 2048, "max_sequences": 256,
    "memory_fraction": 0.95, "kv_memory": None, "gpus_per_replica": 1, "replicas": 1,
    "verify_share": 0.0,
}  # fmt: skip


def on(name, prompts=(16384,), num_prompts=3600, kept=(1.0, 0.125), config=LLAMA, **changes):
    return gpus.estimate(name, config, prompts=prompts, num_prompts=num_prompts, kept_ratios=kept, **SETTINGS | changes)


@pytest.fixture(scope="module")
def rows():
    """(prefill, share of the limit, ceilings) of every row of this package's engine on an H200, weights as stored."""
    found = []
    for path in MEASURED.glob("h200-llama*.json"):
        bench = json.loads(path.read_text())
        found += [
            (row["prefill"], row["figures"]["limit_share"], bench["ceilings"][row["workload"]])
            for row in bench["rows"]
            if row["engine"] != "generate" and row.get("weights", "stored") == "stored"
        ]
    return found


def test_shares_are_those_that_were_measured(rows):
    card, assumed = gpus.GPUS["h200"], gpus
    shares = [
        (assumed.COPY_SHARE, [max(c["copy_gb_per_s"], c["read_gb_per_s"]) / card.gb_per_s for *_, c in rows]),
        (assumed.MATMUL_SHARE, [c["matmul_tflop_per_s"] / card.bfloat16_tflop_per_s for *_, c in rows]),
        (
            assumed.ATTENTION_SHARE,
            [max(c["causal_tflop_per_s"], c["sdpa_tflop_per_s"]) / card.bfloat16_tflop_per_s for *_, c in rows],
        ),
        *(
            (share, [limit for kind, limit, _ in rows if kind == prefill])
            for prefill, share in gpus.LIMIT_SHARES.items()
        ),
    ]
    for share, measured in shares:
        assert share == pytest.approx(median(measured), abs=0.006)


def test_it_says_of_an_h200_what_was_measured_there():
    """llama3.1-8b-16k, exact: 6,582 documents an hour at a kept ratio of 0.124."""
    workload = WORKLOADS["llama3.1-8b-16k"]
    (row,) = on("h200", (workload.prompt_tokens,), 6582, (0.124,)).rows
    assert row.hours == pytest.approx(1.0, rel=0.1)


def test_what_fits():
    found = on("H200")
    assert found.name == "h200"
    assert found.weight_bytes == pytest.approx(16.06e9, rel=0.001)
    assert found.pool_bytes == pytest.approx(0.95 * (141e9 - 4 * 2**30 - 16.06e9), rel=0.001)
    full = (16384 + 256) * 32 * 8 * (2 * 128 * 2 + 12)
    assert [row.documents_at_once for row in found.rows] == [int(found.pool_bytes / full), 256]
    assert found.rows[1].hours < found.rows[0].hours


def test_what_is_asked_over_one_reading_by_hand():
    """Two questions of 48 tokens about 16,384: the second reads its own, and steps of both read all that is kept."""
    card, storage = gpus.GPUS["h200"], Model()
    found = on("h200", (16432, 48), 7200, (0.125,), shared=(0, 16384), max_sequences=64)
    weights = 2 * 32 * (4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14336)
    pairs = (16432**2 / 2 + 48**2 / 2 + 0.125 * 48 * 16384) / 2
    matmul_s = weights * (16432 + 48) / 2 / (gpus.MATMUL_SHARE * card.bfloat16_tflop_per_s * 1e12)
    attention_s = 4 * 32 * 32 * 128 * pairs / (gpus.ATTENTION_SHARE * card.bfloat16_tflop_per_s * 1e12)
    entry = 32 * 8 * stored_bytes(storage, 128, torch.bfloat16)
    rate = gpus.COPY_SHARE * card.gb_per_s * 1e9
    step_s = (weights + 2 * 4096 * 128256 + 2 * 65 * 4096) / rate / 64 + 0.125 * (16432 + 128) * entry / rate
    expected = 2 * (matmul_s + attention_s + 255 * step_s) / gpus.LIMIT_SHARES["exact"]
    assert found.rows[0].hours == pytest.approx(expected, rel=1e-3)


def test_tokens_behind_a_prompt():
    policy = KVPolicy.from_spec({"name": "kvzip", "chunk": 128})
    assert gpus.tokens_behind(policy, 300, 8192) == [128, 136, 52]  # 8 tokens of the chunk before, to go on from
    assert gpus.tokens_behind(policy, 8180, 8192) == []  # no room: its row fails
    assert gpus.tokens_behind(KVPolicy.from_spec({"name": "corm"}), 300, 8192) == []


def test_what_is_read_behind_a_prompt_by_hand():
    """Two passes behind 16,384 tokens: 8,000 rows through 7.0e9 weights, pairs with the prompt and among themselves."""
    found, without = on("h200", behind=[(4000, 4000)]), on("h200")
    card = gpus.GPUS["h200"]
    flops = 2 * 32 * (4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14336) * 8000
    pairs = 2 * (4000 * 16384 + 4000**2 / 2)
    matmul_s = flops / (gpus.MATMUL_SHARE * card.bfloat16_tflop_per_s * 1e12)
    attention_s = 4 * 32 * 32 * 128 * pairs / (gpus.ATTENTION_SHARE * card.bfloat16_tflop_per_s * 1e12)
    assert found.behind_hours == pytest.approx((matmul_s + attention_s) / gpus.LIMIT_SHARES["exact"], rel=1e-6)
    for row, before in zip(found.rows, without.rows, strict=True):
        assert row.hours == pytest.approx(before.hours + found.behind_hours)
    assert without.behind_hours == 0


def test_more_cards_are_faster_and_slower_ones_slower():
    hours = {name: on(name).rows[0].hours for name in gpus.GPUS if on(name).rows[0].hours is not None}
    assert hours["h200"] <= hours["h100"] < hours["a100"] < hours["l40s"] * 2
    assert on("h100", replicas=4).rows[0].hours == pytest.approx(hours["h100"] / 4)
    assert on("h100", gpus_per_replica=2).rows[0].hours < hours["h100"]
    assert on("h100", dtype="float32").rows[0].hours > 5 * hours["h100"]
    assert on("h100", prefill="streaming").rows[1].hours < on("h100", (131072,)).rows[1].hours


def test_a_pool_that_was_set_and_weights_that_do_not_fit():
    assert on("h100", kv_memory=10**9).pool_bytes == 10**9
    found = on("l4", dtype="float32")
    assert found.pool_bytes < 0
    assert [(row.documents_at_once, row.hours) for row in found.rows] == [(0, None), (0, None)]


def test_one_embedding_table_where_it_is_the_output_head_too():
    tied = on("h100", config=llama_config(tie_word_embeddings=True)).weight_bytes
    assert on("h100", config=llama_config()).weight_bytes - tied == 199 * 48 * 2


def test_an_unknown_card_is_answered_with_those_there_are():
    with pytest.raises(SpecError, match=r"--gpu h9: no figures of such a card; known: a10, .*h200, l4, l40s"):
        gpus.find_gpu("h9")


def test_verification_takes_a_share_of_exact_passes():
    plain, verified = on("h200", prefill="streaming"), on("h200", prefill="streaming", verify_share=0.25)
    assert plain.verify_hours == 0.0
    for before, after in zip(plain.rows, verified.rows, strict=True):
        assert after.hours == pytest.approx(before.hours + verified.verify_hours)
    assert verified.verify_hours == pytest.approx(on("h200", verify_share=1.0).verify_hours / 4)
    # 3,600 passes of 16,640 tokens: products, attention over half a square, and the head's 256 rows
    card = gpus.GPUS["h200"].bfloat16_tflop_per_s * 1e12
    layers = 32 * 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336)
    products = 2 * (layers * 16640 + 128256 * 4096 * 256) / (gpus.MATMUL_SHARE * card)
    attention = 4 * 32 * 32 * 128 * 16640**2 / 2 / (gpus.ATTENTION_SHARE * card)
    expected = (products + attention) / gpus.LIMIT_SHARES["exact"]
    assert on("h200", verify_share=1.0).verify_hours == pytest.approx(expected, rel=1e-6)


def test_answering_again_costs_what_a_full_cache_costs():
    (full,) = on("h200", kept=(1.0,), num_prompts=1).rows
    assert on("h200", num_prompts=1).rerun_s == pytest.approx(3600 * full.hours)
    assert on("h200", prompts=(4_000_000,)).rerun_s is None


def test_8_bit_weights_take_half_the_room_and_less_time():
    wide, narrow = (on("h200", weights=form) for form in ("stored", "fp8"))
    layers = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
    scales = 4 * 32 * (6144 + 4096 + 2 * 14336 + 4096)
    assert wide.weight_bytes - narrow.weight_bytes == layers - scales
    assert narrow.pool_bytes > wide.pool_bytes
    assert all(less.hours < more.hours for less, more in zip(narrow.rows, wide.rows, strict=True))
    with pytest.raises(SpecError, match=r"--gpu a100: the card has no 8-bit products"):
        on("a100", weights="fp8")


def test_8_bit_entries_let_more_documents_in_and_are_read_faster():
    wide, narrow = (on("h200", (4096,), max_sequences=10_000, storage=form) for form in (Model(), Fp8()))
    for less, more in zip(wide.rows, narrow.rows, strict=True):
        assert more.documents_at_once / less.documents_at_once == pytest.approx(524 / 276, rel=0.01)
        assert more.hours < less.hours
    with pytest.raises(SpecError, match=r"--gpu a100: the card has no 8-bit numbers, which engine\.storage: fp8 needs"):
        on("a100", storage=Fp8())
