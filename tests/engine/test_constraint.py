"""Answers to a grammar, in every kind of batch, against a loop that asks transformers for one token after the other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch.engine import constraint
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import DocumentError, GrammarError
from corm_batch.grammar.grammar import Grammar
from corm_batch.grammar.matcher import Matchers, fill
from tests.conftest import llama_config, save_random_model
from tests.engine.test_scheduler import assert_books_balance
from tests.grammar.tokenizers_of import byte_level

SCHEMA = Grammar.of_schema(
    {
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 4},
            "b": {"type": "array", "items": {"enum": ["yes", "no", 12]}, "maxItems": 3},
            "c": {"type": ["boolean", "null"]},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    }
)
CHOICES = Grammar.of_choices(["yes", "no", "no a"])
OPEN = Grammar.of_regex("[a-z ]+")
GRAMMARS = (SCHEMA, None, CHOICES, OPEN, None, SCHEMA, SCHEMA, OPEN)
PROMPTS = [[(i * 31 + j * j) % 250 for j in range(size)] for i, size in enumerate((41, 3, 77, 30, 60, 12, 25, 9))]
NEW = 24


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A random model of more tokens than its tokenizer has, which ends answers with that one's end of sequence."""
    config = llama_config(vocab_size=len(tokenizer) + 5)
    folder = save_random_model(config, tmp_path_factory.mktemp("constrained"), seed=3)
    tokenizer.save_pretrained(folder)
    return folder


def make(folder, pages=4000, policy="full", device="cpu", **config):
    fields = {"page_size": 4, "kv_memory": pages * 560, "step_token_budget": 150, "max_sequences": 8, **config}
    end = byte_level()[0].eos_token_id
    return Engine.from_pretrained(
        folder, policy={"name": policy}, dtype="float32", device=device, end_token_ids=[end], **fields
    )


def requests(grammars=GRAMMARS, **sampling):
    return [
        Request(str(i), ids, SamplingParams(max_new_tokens=NEW, **sampling), grammar=grammar)
        for i, (ids, grammar) in enumerate(zip(PROMPTS, grammars, strict=True))
    ]


def answers(engine, asked):
    done = {one.id: one for one in engine.run(asked)}
    assert_books_balance(engine)
    return done


@pytest.fixture(scope="module")
def expected(folder, tokenizer):
    """The greedy answer to every request, token by token, each mask made from the start."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    end, vocab_size = tokenizer.eos_token_id, model.config.vocab_size
    matchers, found = Matchers(lambda: tokenizer, vocab_size, {end}), []
    for ids, grammar in zip(PROMPTS, GRAMMARS, strict=True):
        answer = []
        while len(answer) < NEW and answer[-1:] != [end]:
            with torch.no_grad():
                logits = model(torch.tensor([ids + answer])).logits[0, -1]
            if grammar is not None:
                matcher = matchers.matcher(grammar)
                matcher.follow(answer)
                if matcher.is_whole_at(len(answer)):
                    break
                mask = np.zeros((1, matcher.num_words), np.int32)
                fill([matcher], mask)
                allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab_size].astype(bool)
                logits[~torch.from_numpy(allowed)] = -math.inf
            answer.append(int(logits.argmax()))
        found.append(answer)
    return found


def fits(text, grammar):
    """Whether an answer that ended is one of the grammar's."""
    if grammar is SCHEMA:
        record = json.loads(text)
        return record.keys() - {"c"} == {"a", "b"} and len(record["a"]) <= 4 and set(record["b"]) <= {"yes", "no", 12}
    return text in ("yes", "no", "no a") if grammar is CHOICES else set(text) <= set("abcdefghijklmnopqrstuvwxyz ")


STREAMING = {"prefill": "streaming", "chunk_size": 16}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize(("steps", "settings"), [(1, {}), (5, STREAMING), (5, {"max_sequences": 2})])
def test_greedy_answers_are_the_definitions_beside_free_ones(steps, settings, folder, expected):
    engine = make(folder, **settings)
    engine.decoder._fewest_steps = engine.decoder.most_steps = steps  # as on a GPU
    done = answers(engine, requests())
    assert [list(done[str(i)].token_ids) for i in range(len(PROMPTS))] == expected


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, STREAMING, {"max_sequences": 3}])
def test_greedy_answers_on_a_gpu_are_the_definitions_beside_free_ones(settings, folder, expected):
    """Masks and tokens pass through pinned memory while captured steps run; the second time none is captured anew."""
    engine = make(folder, device="cuda", **settings)
    assert engine.decoder.most_steps > 1
    for _ in range(2):
        done = answers(engine, requests())
        assert [list(done[str(i)].token_ids) for i in range(len(PROMPTS))] == expected


def test_a_step_taken_again_and_an_answer_put_aside_change_none(folder, expected, monkeypatch):
    engine = make(folder)
    engine.decoder._fewest_steps = engine.decoder.most_steps = 3
    run, failed = engine.decoder.run, []

    def run_out_of_memory_once(sequences, num_steps):
        found = run(sequences, num_steps)
        if len(failed) < 2 and all(len(one.output) > 3 for one in sequences):
            failed.append(len(sequences))
            raise torch.OutOfMemoryError("after all steps")
        return found

    monkeypatch.setattr(engine.decoder, "run", run_out_of_memory_once)
    done = answers(engine, requests())
    assert len(failed) == 2  # whereupon half of the answers, and half of these, go to host memory
    assert sum(one.memory.preemptions for one in done.values()) > 3
    assert [list(done[str(i)].token_ids) for i in range(len(PROMPTS))] == expected


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_drawn_fits_whatever_the_seed(device, folder, tokenizer):
    engine, ended = make(folder, device=device), 0
    for seed in range(2):
        for one in answers(engine, requests(temperature=1.5, seed=seed)).values():
            grammar, ids = GRAMMARS[int(one.id)], list(one.token_ids)
            if grammar is not None and one.finish_reason == "stop":
                ended += 1
                assert fits(tokenizer.decode(ids, skip_special_tokens=True), grammar)
                assert grammar is not OPEN or ids[-1] == tokenizer.eos_token_id  # others may end by themselves
    assert ended > 4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("uncompressed", [True, False])
def test_answers_are_scored_by_what_they_were_chosen_from(uncompressed, device, folder):
    engine = make(folder, device=device)
    asked = requests()
    done = answers(engine, asked)
    for one in (done[place] for place in "0137"):
        request = asked[int(one.id)]
        scores = engine.score(request.token_ids, one.token_ids, uncompressed=uncompressed, grammar=request.grammar)
        assert scores.logprobs == pytest.approx(scores.best_logprobs, abs=1e-4)
        assert sum(scores.logprobs) / len(scores.logprobs) == pytest.approx(one.mean_logprob, abs=1e-4)
    wrong = engine.score(PROMPTS[0], [5, *one.token_ids], uncompressed=uncompressed, grammar=CHOICES)
    assert wrong.logprobs[0] == -math.inf
    assert all(map(math.isfinite, wrong.logprobs[1:]))  # nothing goes on with it, so nothing is said of the rest
    assert all(map(math.isfinite, wrong.best_logprobs))


def test_a_row_that_nothing_is_left_for_fails_alone(folder, tokenizer):
    free = answers(make(folder), requests())
    path = Path(folder, "generation_config.json")
    before = path.read_text()
    path.write_text(
        json.dumps({"suppress_tokens": [tokenizer.convert_tokens_to_ids(text) for text in ("y", "n", "ye")]})
    )
    try:
        engine = make(folder)
        engine.decoder._fewest_steps = engine.decoder.most_steps = 4
        only = Grammar.of_choices(["y", "nn"])
        done = answers(engine, [*requests((None,) * 8), replace(requests()[0], id="x", grammar=only)])
    finally:
        path.write_text(before)
    assert done["x"].token_ids == ()
    assert isinstance(done["x"].error, DocumentError)
    assert "after 0 tokens of the answer nothing is left that its grammar and the model's rules both allow" in str(
        done["x"].error
    )
    assert done["1"].token_ids == free["1"].token_ids
    assert all(done[str(i)].error is None for i in range(8))


def test_stop_texts_and_lengths_end_an_answer_wherever_it_is(folder, expected):
    engine = make(folder)
    stopped = replace(requests()[0], id="stopped", stop=lambda ids: len(ids) == 3)
    short = replace(requests()[0], id="short", sampling=SamplingParams(max_new_tokens=4))
    done = answers(engine, [stopped, short])
    assert (done["stopped"].finish_reason, list(done["stopped"].token_ids)) == ("stop", expected[0][:3])
    assert (done["short"].finish_reason, list(done["short"].token_ids)) == ("length", expected[0][:4])


def test_a_cancelled_answer_leaves_the_others_as_they_are(folder, expected):
    engine = make(folder)
    for request in requests():
        engine.add(request)
    done = [*engine.step(), *engine.step()]
    engine.cancel("5")
    while engine.has_work:
        done += engine.step()
    found = {one.id: one for one in done}
    assert found["5"].finish_reason == "cancelled"
    assert [list(found[str(i)].token_ids) for i in (0, 3, 6)] == [expected[i] for i in (0, 3, 6)]


@pytest.mark.parametrize(
    ("grammar", "sampling", "named"),
    [
        (Grammar.of_regex("a("), {}, "no grammar can be made of this regex"),
        (CHOICES, {"ignore_eos": True}, "ignore_eos"),
    ],
)
def test_what_cannot_be_held_is_a_failed_request(grammar, sampling, named, folder):
    request = replace(requests(**sampling)[0], grammar=grammar)
    (done,) = make(folder).run([request])
    assert named in str(done.error)
    assert isinstance(done.error, DocumentError)


def test_a_model_without_a_tokenizer_cannot_hold_an_answer_to_a_form(tiny_llama):
    engine = Engine.from_pretrained(
        tiny_llama, policy={"name": "full"}, dtype="float32", device="cpu", kv_memory="1MiB"
    )
    (done,) = engine.run([Request("a", [1, 2], grammar=CHOICES)])
    assert isinstance(done.error, GrammarError)


def test_masks_are_asked_for_lexer_by_lexer(folder, monkeypatch):
    """No two of one lexer can be asked for at one time: a thread that takes neighbours has them one after the other."""
    asked, fill_all = [], fill

    def recorded(matchers, mask):
        asked.append([one.lexer for one in matchers])
        fill_all(matchers, mask)

    monkeypatch.setattr(constraint, "fill", recorded)
    engine = make(folder)
    engine._matchers._num_lexers = 3
    sampling = SamplingParams(max_new_tokens=5)
    for number, grammar in enumerate((SCHEMA, None, *[SCHEMA] * 6)):
        engine.add(Request(str(number), PROMPTS[0], sampling, grammar=grammar))
    while engine.has_work:
        engine.step()
    assert [0, 0, 0, 1, 1, 2, 2] in asked
    assert all(lexers == sorted(lexers) for lexers in asked)
