"""The engine on a GPU: the same tokens as transformers there, the same entries kept as on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from tests.engine.test_engine import DOCUMENTS

pytestmark = pytest.mark.gpu
CORM = {"name": "corm", "preset": "paper", "window": 32, "recent": 32, "tau": 2.0}
BY_LAYER = {"name": "lorc", "progression": 0.4}


def make_requests(folder, lengths, **fields):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = pq.read_table(DOCUMENTS, columns=["text"]).column("text").to_pylist()
    ids = [tokenizer("<|document|>" + t, add_special_tokens=False)["input_ids"] for t in texts[: len(lengths)]]
    sampling = SamplingParams(max_new_tokens=32, ignore_eos=True)
    return [Request(str(i), ids[i][:n], sampling, **fields) for i, n in enumerate(lengths)]


def run(folder, device, policy, requests, **config):
    engine = Engine.from_pretrained(folder, policy=policy, dtype="float32", device=device, kv_memory="400MiB", **config)
    return {completion.id: completion for completion in engine.run(requests)}


def assert_same_kept_but_for_rounding(got, expected):
    """At the threshold a rounded weight may go either way: one entry in 500."""
    ours, theirs = (
        {(i, j, p) for i, layer in enumerate(a.kept_positions) for j, head in enumerate(layer) for p in head}
        for a in (got, expected)
    )
    assert len(ours ^ theirs) <= 2e-3 * len(theirs)


def test_greedy_tokens_equal_those_of_transformers(reference_model):
    requests = make_requests(reference_model, (300, 2900, 1111, 1, 2048))
    answers = run(reference_model, "cuda", {"name": "full"}, requests)
    model = AutoModelForCausalLM.from_pretrained(reference_model, dtype=torch.float32).cuda()
    for request in requests:
        prompt = torch.tensor([request.token_ids], device="cuda")
        own = model.generate(prompt, max_new_tokens=32, do_sample=False, eos_token_id=None)[0, prompt.shape[1] :]
        assert list(answers[request.id].token_ids) == own.tolist()


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_keeps_what_the_cpu_keeps_but_for_rounding_at_the_threshold(prefill, reference_model):
    requests = make_requests(reference_model, (300, 2900, 1111), return_kept_positions=True)
    cpu, gpu = (run(reference_model, device, CORM, requests, prefill=prefill) for device in ("cpu", "cuda"))
    for name, answer in cpu.items():
        assert gpu[name].token_ids == answer.token_ids
        assert_same_kept_but_for_rounding(gpu[name], answer)


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
@pytest.mark.parametrize(
    ("policy", "storage"),
    [
        (CORM, "fp8"),
        (CORM, "int4"),
        (CORM, BY_LAYER),
        ({"name": "keydiff", "budget": {"name": "adakv", "max_kept": 512}}, "fp8"),
        ({"name": "keydiff", "budget": {"name": "adakv", "max_kept": 512}}, "int8"),
    ],
)
def test_rounded_entries_score_as_on_the_cpu_but_for_rounding(policy, storage, prefill, reference_model):
    """A number half way between two may go either way: two of 4 bits are 18 times as far apart as two of 8."""
    lengths = (300, 2900, 1111)
    answers = {one.id: list(one.token_ids) for one in run(
        reference_model, "cuda", policy, make_requests(reference_model, lengths)
    ).values()}  # fmt: skip
    requests = [replace(one, answer_ids=answers[one.id]) for one in make_requests(reference_model, lengths)]
    fields = {"prefill": prefill, "storage": storage}
    cpu, gpu = (run(reference_model, device, policy, requests, **fields) for device in ("cpu", "cuda"))
    for name, expected in cpu.items():
        ours, theirs = (torch.tensor(one.scores.logprobs) for one in (gpu[name], expected))
        assert (ours - theirs).abs().mean() < (0.05 if storage == "int4" else 0.02)
        assert gpu[name].memory.kept_ratio == pytest.approx(expected.memory.kept_ratio, rel=0.01)
        assert gpu[name].memory.kv_bytes_full == expected.memory.kv_bytes_full


@pytest.mark.parametrize("storage", ["model", "fp8", "int8", "int4", "lorc", BY_LAYER])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_and_frees_its_pages(dtype, storage, reference_model):
    requests = make_requests(reference_model, (700, 1900))
    fields = {"dtype": dtype, "device": "cuda", "kv_memory": "64MiB", "storage": storage}
    engine = Engine.from_pretrained(reference_model, policy=CORM, **fields)
    answers = list(engine.run(requests))
    assert [answer.error for answer in answers] == [None, None]
    assert all(answer.memory.kept_ratio < 0.9 for answer in answers)
    assert engine.pool_bytes_used == 0


def test_questions_over_readings_are_answered_as_on_the_cpu(reference_model):
    """Those over two readings in one pass, beside a prompt."""
    whole, found = make_requests(reference_model, (2900, 1111, 700), return_kept_positions=True), []
    for device in ("cpu", "cuda"):
        engine = Engine.from_pretrained(
            reference_model, policy=CORM | {"reach": 20}, dtype="float32", device=device, kv_memory="400MiB"
        )
        for number, request in enumerate(whole[:2]):
            reading = engine.read(request.token_ids)
            for length in (1, 52, 130):  # of which no answer has two tokens that are as likely
                question = replace(request, id=f"{number}:{length}", token_ids=whole[2].token_ids[:length])
                engine.add(replace(question, reading=reading))
            reading.close()
        found.append({completion.id: completion for completion in engine.run(whole[2:])})
        assert engine.pool_bytes_used == 0
    assert len(found[0]) == 7
    for name, answer in found[0].items():
        assert found[1][name].token_ids == answer.token_ids
        assert_same_kept_but_for_rounding(found[1][name], answer)
