"""Penalties and limits of a request against transformers' logits processors and vLLM's definitions, row by row."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.open import Engine
from corm_batch.engine.penalties import Penalties
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.rules import NO_RULES, Rules
from corm_batch.engine.sampler import prepare, sample
from corm_batch.engine.sequence import Row, Sequence
from corm_batch.engine.shape import ModelShape
from corm_batch.policies.base import KVPolicy

V = 50
DRAWS = 2000
CPU = torch.device("cpu")
MIXED = (
    {},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.4, "presence_penalty": -0.3},
    {"repetition_penalty": 0.7, "frequency_penalty": -1.1, "presence_penalty": 0.6},
    {"presence_penalty": 2.0},
)


def row(seed, num_new=6, answer_ids=None, **sampling):
    """A row behind a prompt and an answer of random tokens, some of them twice."""
    random = torch.Generator().manual_seed(seed)
    prompt, answer = (torch.randint(0, V, (count,), generator=random).tolist() for count in (9, num_new))
    request = Request(f"r{seed}", prompt, SamplingParams(**sampling), answer_ids=answer_ids)
    sequence = Sequence(request, seed, 1, CPU)
    sequence.output += [*answer, *answer[:2]] if answer_ids is None else []
    return Row(sequence, len(sequence.answer))


def literal(logits_V, before, answer, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0):
    """transformers' repetition penalty, then vLLM's two: `logits -= frequency * counts`, `presence * (counts > 0)`."""
    if repetition_penalty != 1.0:
        ids = torch.tensor(before)[None]
        logits_V = RepetitionPenaltyLogitsProcessor(repetition_penalty)(ids, logits_V[None].clone())[0]
    counts = torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=V).float()
    return logits_V - frequency_penalty * counts - presence_penalty * (counts > 0)


@pytest.mark.parametrize("chosen", [range(5), (1,), (3, 4), (0, 2), (1, 3), (0, 1, 2, 3, 4, 3)], ids=str)
def test_every_row_has_its_own_penalties_and_no_other_s(chosen):
    rows = [row(seed, **MIXED[place]) for seed, place in enumerate(chosen)]
    logits = 5 * torch.randn(len(rows), V, generator=torch.Generator().manual_seed(1))
    penalties = Penalties.of(rows, NO_RULES, V, CPU)
    before = [row.before.tolist() for row in rows]
    answers = [list(row.sequence.output) for row in rows]
    for _ in range(3):  # the tokens of a step count in the next
        found = penalties.apply(logits)
        wanted = [literal(logits[i], before[i], answers[i], **MIXED[place]) for i, place in enumerate(chosen)]
        assert torch.equal(found, torch.stack(wanted))
        tokens = found.argmax(dim=-1)
        penalties.note(tokens)
        for i, token in enumerate(tokens.tolist()):
            before[i].append(token)
            answers[i].append(token)


def test_rows_without_any_have_none_and_rows_without_some_hold_no_table_of_them():
    assert Penalties.of([row(0), row(1, temperature=1.0, top_k=3, min_p=0.1)], NO_RULES, V, CPU) is None
    repeats = Penalties.of([row(0), row(1, repetition_penalty=1.1)], NO_RULES, V, CPU)
    assert (repeats.rows.tolist(), repeats.seen.shape, repeats.counts) == ([1], (1, V), None)
    counted = Penalties.of([row(0, presence_penalty=0.1)], NO_RULES, V, CPU)
    assert (counted.rows, counted.seen, counted.counts.shape) == (None, None, (1, V))


def test_a_request_s_repetition_penalty_goes_before_the_model_s():
    rows = [row(0), row(1, repetition_penalty=1.5)]
    found = Penalties.of(rows, Rules(repetition_penalty=1.2), V, CPU)
    assert found.repetition.flatten().tolist() == pytest.approx([1.2, 1.5])


def test_the_places_of_an_answer_to_score_see_what_comes_before_each():
    answer, sampling = [3, 7, 3, 3, 9], MIXED[3]
    sequence = row(5, answer_ids=answer, **sampling).sequence
    rows = [Row(sequence, place) for place in range(len(answer))]
    logits = torch.randn(len(rows), V, generator=torch.Generator().manual_seed(2))
    found = Penalties.of(rows, NO_RULES, V, CPU).apply(logits)
    wanted = [literal(logits[i], row.before.tolist(), answer[:i], **sampling) for i, row in enumerate(rows)]
    assert torch.equal(found, torch.stack(wanted))


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": 5},
        {"min_p": 0.2},
        {"top_k": 12, "top_p": 0.7},
        {"top_p": 0.8, "min_p": 0.1},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.05},
        {"top_k": 9, "repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_what_may_be_drawn_is_what_transformers_would_draw_from(sampling):
    """Under a temperature; every token it may draw is drawn, by numbers that lie evenly, and no other."""
    warpers = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper}
    processors = [
        TemperatureLogitsWarper(1.3),
        *(make(sampling[name]) for name, make in warpers.items() if name in sampling),
    ]
    if "repetition_penalty" in sampling:
        processors.insert(0, RepetitionPenaltyLogitsProcessor(sampling["repetition_penalty"]))
    model = LoadedModel(
        torch.nn.Identity(), ModelShape(1, 1, 1, 1, 99, V), (None,), frozenset(), CPU, torch.float32, rules=NO_RULES
    )
    for seed in range(4):
        one = row(seed, temperature=1.3, **sampling)
        logits = 2 * torch.randn(1, V, generator=torch.Generator().manual_seed(seed))
        scores = LogitsProcessorList(processors)(torch.tensor(one.before)[None], logits.clone())
        probs = scores.softmax(dim=-1)[0]
        choice = prepare(model, [one] * DRAWS, 1)
        choice.draws.uniform[0, :, 0] = (torch.arange(DRAWS) + 0.5) / DRAWS
        drawn = sample(logits.expand(DRAWS, V), choice)[0]
        draws = torch.bincount(drawn, minlength=V) / DRAWS
        assert torch.allclose(draws, probs, atol=1.1 / DRAWS)


def test_greedy_answers_and_their_scores_go_by_the_same_penalties(tiny_llama):
    engine = Engine.from_pretrained(
        tiny_llama, policy=KVPolicy.from_spec({"name": "full"}), dtype="float32", device="cpu", kv_memory=2**22
    )
    prompt = [3, 5, 8, 13, 21, 34, 55, 89]
    texts = {}
    for name, sampling in (
        ("plain", {}),
        ("all", {"repetition_penalty": 1.8, "frequency_penalty": 1.5, "presence_penalty": 1}),
    ):
        asked = SamplingParams(max_new_tokens=24, **sampling)
        (done,) = engine.run([Request(name, prompt, asked)])
        texts[name] = done.token_ids
        for uncompressed in (True, False):
            scores = engine.score(prompt, done.token_ids, sampling=asked, uncompressed=uncompressed)
            assert scores.logprobs == scores.best_logprobs
            assert sum(scores.logprobs) / 24 == pytest.approx(done.mean_logprob, rel=1e-4)
    assert len(set(texts["plain"])) < len(set(texts["all"]))
    otherwise = engine.score(prompt, texts["all"])
    assert any(best > own for own, best in zip(otherwise.logprobs, otherwise.best_logprobs, strict=True))


@pytest.mark.parametrize(
    "sampling",
    [{"top_k": -1}, {"min_p": 1.5}, {"repetition_penalty": 0}, {"presence_penalty": 2.5}, {"frequency_penalty": -3}],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(sampling):
    with pytest.raises(ValueError, match=next(iter(sampling))):
        SamplingParams(**sampling)


@pytest.mark.gpu
def test_on_a_gpu_they_are_the_same_and_wait_for_nothing():
    here_rows, rows = ([row(seed, **MIXED[seed % 5]) for seed in range(10)] for _ in range(2))
    logits = 5 * torch.randn(len(rows), V, generator=torch.Generator().manual_seed(1))
    here = Penalties.of(here_rows, NO_RULES, V, torch.device("cpu"))
    there = Penalties.of(rows, NO_RULES, V, torch.device("cuda"))
    of_gpu = logits.cuda()
    found = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert Penalties.of([rows[0], rows[5]], NO_RULES, V, torch.device("cuda")) is None
        for _ in range(3):
            found.append(there.apply(of_gpu))
            there.note(found[-1].argmax(dim=-1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one in found:
        wanted = here.apply(logits)
        here.note(wanted.argmax(dim=-1))
        assert torch.allclose(one.cpu(), wanted, rtol=1e-6, atol=1e-6)
