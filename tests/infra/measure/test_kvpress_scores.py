"""Answers of both sides are paired by prompt, and the policies here are asked what kvpress is."""

from dataclasses import replace

import torch

from corm_batch.engine.loader import load_model
from infra.measure import kvpress_scores
from infra.measure.held_out import JOBS, AskedModel
from infra.measure.kvpress_policies import policies
from infra.measure.kvpress_scores import ask_here, compare, draw, questions, table
from tests.conftest import llama_config, save_random_model

MODEL = AskedModel(JOBS[0])
TOKENIZER = MODEL.tokenizer
ASKED = draw(MODEL, 2, [256])


def answered(*right, kept=0.5):
    """Whether each question is answered right, by its key."""
    texts = [one.case.answers[0] if said else "nothing" for one, said in zip(ASKED, right, strict=True)]
    return {one.key: {"tokens": TOKENIZER.text_ids(text), "kept": kept} for one, text in zip(ASKED, texts, strict=True)}


def test_right_answers_are_counted_and_paired():
    there, here = answered(True, True, True, False), answered(True, False, False, True, kept=0.4)
    found = compare(ASKED, TOKENIZER, here, there)
    assert (found["kvpress"], found["here"], found["lost"], found["won"]) == (0.75, 0.5, 2, 1)
    assert found["difference_95"][0] < found["difference"] == -0.25 < found["difference_95"][1]
    assert (found["same_answer"], found["kept_kvpress"], found["kept_here"]) == (0.25, 0.5, 0.4)
    told = table([{"model": "tiny", "methods": {"SnapKV": {"0.5": found}}}])
    assert told.splitlines()[-1].startswith("| SnapKV | 75 : 50 (")


def test_every_policy_answers_with_its_share_and_none_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(kvpress_scores, "CACHE_BYTES", 2**24)
    config = llama_config(vocab_size=TOKENIZER.highest_token_id + 1, max_position_embeddings=400)
    model = load_model(save_random_model(config, tmp_path), torch.float32, torch.device("cpu"))
    found, asked = {}, [replace(ASKED[0], case=replace(ASKED[0].case, max_new_tokens=2))]
    repeating = {"first_ids": [5, 6], "later_ids": [7], "closing_ids": [8]}
    (key,) = ask_here(model, asked, [0.5], repeating, found)
    assert key == asked[0].key
    assert set(found) == {"full", *policies(0.5, 0, 1), "KVzip"}
    assert found["full"]["1.0"][key]["kept"] == 1
    kept = {name: shares["0.5"][key]["kept"] for name, shares in found.items() if name != "full"}
    assert all(0.45 < share < 0.55 for share in kept.values()), kept
    assert list(ask_here(None, asked, [0.5], repeating, found)) == []  # nothing is loaded for what is there


def test_kvpress_is_asked_the_same():
    told = questions("folder", ASKED, [0.5], [4, 2])
    assert told["prompts"] == {one.key: list(one.prompt) for one in ASKED}
    assert (told["kept"], told["ends"]) == ([0.5], [2, 4])
