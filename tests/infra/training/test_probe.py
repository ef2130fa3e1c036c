"""What one forward pass says of an answer is what generation gives."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from infra.training.attention import PACKED
from infra.training.compose import ANSWER, ANSWER_WEIGHT, END, Composer, Instructions
from infra.training.facts import TASKS
from infra.training.model import Settings, build
from infra.training.probe import Probe, batched, forward

LENGTH, CASES = 256, 3


class Misled(Composer):
    """Expects a wrong answer in every other case, so that some cases are wrong however good the model is."""

    def facts(self, length, task=None):
        document, questions = super().facts(length, task)
        self.drawn = not getattr(self, "drawn", False)
        return document, questions if self.drawn else [(question, answer + " or so") for question, answer in questions]


@pytest.fixture(scope="module")
def model(request):
    folder = request.config.rootpath / "jobs/quickstart/model"
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def reference(request):
    folder = request.config.rootpath / "jobs/quickstart/model"
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()


@pytest.fixture
def misled(tokenizer, text, words):
    def make(seed):
        return Misled(tokenizer, text, words, Instructions([], []), seed)

    return make


def generates(model, ids, answer, tokenizer):
    """Whether greedy generation gives the whole answer and ends there."""
    place = int(np.flatnonzero(answer)[0])
    assert ids[place - 1] == tokenizer.token_to_id(ANSWER)
    prompt = torch.from_numpy(ids[:place].astype(np.int64))[None]
    expected = ids[answer].tolist()
    settings = {"max_new_tokens": len(expected), "do_sample": False, "eos_token_id": tokenizer.token_to_id(END)}
    with torch.autocast("cpu", torch.bfloat16):  # the precision the probe reads in
        said = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[0, place:].tolist()
    return said == expected


@torch.no_grad()
@pytest.mark.parametrize("task", ["all_values"])
def test_exact_agrees_with_greedy_generation(model, reference, misled, tokenizer, task):
    cases, composer = [], misled(task)
    while len(cases) < CASES:
        document, questions = composer.facts(LENGTH - 96, task)
        ids, weight = composer.sequence(document, questions[:1])
        if len(ids) <= LENGTH:
            cases.append((ids, weight == ANSWER_WEIGHT))
    right = sum(generates(reference, ids, answer, tokenizer) for ids, answer in cases)
    assert right < CASES
    for row in (LENGTH, 2 * LENGTH):
        assert Probe(misled(task), [], (LENGTH,), CASES, row).exact(model, task, LENGTH) == right / CASES


@torch.no_grad()
def test_the_reference_model_gives_a_pass_key_exactly(model, compose):
    assert Probe(compose(0), [], (LENGTH,), CASES, 1024).exact(model, "pass_key", LENGTH) == 1


def test_cases_are_grouped_in_order_up_to_the_row():
    cases = [(np.zeros(length, np.uint16), np.array([i])) for i, length in enumerate((3, 4, 3, 9, 12, 1, 1))]
    groups = [[int(mark[0]) for _, mark in group] for group in batched(cases, 10)]
    assert groups == [[0, 1, 2], [3], [4], [5, 6]]
    assert [len(group) for group in batched(cases, 1)] == [1] * 7
    assert [len(group) for group in batched(cases, 33)] == [7]


@torch.no_grad()
def test_packed_sequences_have_the_states_they_have_alone(model, text):
    parts = [text[:50], text[50:51], text[51:150]]
    together = forward(model, parts).float()
    alone = torch.cat([forward(model, [part]) for part in parts]).float()
    assert (together - alone).norm() / alone.norm() < 0.02  # in bfloat16


@torch.no_grad()
def test_perplexity_is_over_whole_windows_behind_the_document_mark(model, reference, compose, text):
    composer, length = compose(0), 129
    books = [text[:300], text[1000:1129], text[2000:2127]]  # two windows, one, and none: a token too few
    windows = [text[:128], text[128:256], text[1000:1128]]
    losses = []
    for window in windows:
        ids = torch.tensor([[int(composer.special["<|document|>"][0]), *window.tolist()]])
        losses.append(reference(input_ids=ids, labels=ids).loss.item())
    expected = math.exp(sum(losses) / len(losses))
    got = Probe(composer, books, (64, length), 1, 1024).perplexity(model)
    assert got == pytest.approx(expected, rel=0.02)  # bfloat16 against float32


@torch.no_grad()
def test_a_probe_measures_every_task_and_layer_and_the_same_again(compose, tokenizer):
    model = build(Settings("llama", "tiny", None, "muon", 1e-2, 1e6, 2, 1000, 0), tokenizer).cpu().eval()
    books = [compose(0).text[:400]]
    probe = Probe(compose(0), books, (200, 300), 1, 1024)
    found = probe(model)
    assert set(found) == {"exact", "perplexity", "layers"}
    assert {length: set(shares) for length, shares in found["exact"].items()} == {
        length: {task.__name__ for task in TASKS} for length in ("200", "300")
    }
    assert len(found["layers"]) == 2
    assert all(0 <= layer[name] <= 1 for layer in found["layers"] for name in ("important", "first", "kept"))
    assert probe(model) == found


def test_the_held_out_books_are_read_by_kind(compose, tokenizer):
    probe = Probe.load(compose(0), (512,), 1, 1024)
    assert len(probe.books) == 10
    assert len(probe.composer.text) > 100_000
    assert probe.composer.words == compose(0).words
    haystack = tokenizer.decode(probe.composer.text[:200].tolist())
    assert all(haystack not in tokenizer.decode(book.tolist()) for book in probe.books)
