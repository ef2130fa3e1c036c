"""The rates of constrained batches on a model of seconds: who is held, what is counted."""

import json

import pytest
import torch

from infra.measure import constrained_rate
from tests.conftest import llama_config
from tests.grammar.tokenizers_of import byte_level


@pytest.fixture
def folder(tmp_path):
    tokenizer, _ = byte_level()
    tokenizer.save_pretrained(tmp_path)
    llama_config(vocab_size=len(tokenizer) + 5).save_pretrained(tmp_path)
    return tmp_path


def test_the_ways_take_turns_over_new_prompts(folder, monkeypatch):
    asked, run = [], constrained_rate.run

    def noted(engine, prompts, answer_tokens, num_constrained):
        asked.append((num_constrained, prompts))
        return run(engine, prompts, answer_tokens, num_constrained)

    monkeypatch.setattr(constrained_rate, "run", noted)
    counts = ["--batch", "3", "--prompt-tokens", "9", "--answer", "8", "--repeats", "2", "--dtype", "float32"]
    constrained_rate.main(["--model", str(folder), *counts, "--output", str(folder / "rate.json")])
    record = json.loads((folder / "rate.json").read_text())
    assert [held for held, _ in asked] == [*[0, 3, 2] * 3, 3]  # the first of each is the warm-up, the last one's parts
    assert len({tuple(prompt) for _, prompts in asked for prompt in prompts}) == 30
    assert {way: len(runs) for way, runs in record["runs"].items()} == dict.fromkeys(constrained_rate.WAYS, 2)
    medians = record["median_tokens_per_s"]
    assert record["constrained over free"] == round(medians["constrained"] / medians["free"], 4)
    assert record["two constrained over free"] == round(medians["two constrained"] / medians["free"], 4)
    assert record["command"].startswith("python -m infra.measure.constrained_rate")
    assert record["parts"] == {}  # a CPU looks at every token


def test_parts_are_those_of_the_steps_behind_another(folder, monkeypatch):
    shape = constrained_rate.shape_of(str(folder))
    model = constrained_rate.random_with_tokenizer(shape, str(folder), torch.float32, torch.device("cpu"))
    engine = constrained_rate.Engine(model, constrained_rate.Full(), constrained_rate.EngineConfig.parse({}))
    engine.decoder._fewest_steps = engine.decoder.most_steps = 4  # as on a GPU
    moments = []
    monkeypatch.setattr(constrained_rate, "moment", lambda: moments.append(None) or len(moments))
    monkeypatch.setattr(constrained_rate, "on_host", lambda start, stop: stop - start)
    monkeypatch.setattr(constrained_rate, "on_device", lambda start, stop: 10 * (stop - start))
    found = constrained_rate.measure_parts(engine, [[5, 6, 7]] * 3, 13)
    assert {name: part["mean"] for name, part in found.items()} == {
        "wait": 1, "advance": 1, "mask": 1, "late": 30, "copy": 10, "apply": 10
    }  # fmt: skip
    assert len(moments) == 9 * 6 + 4 * 3  # the prompt's token and the first of 4 steps come behind none


def test_held_rows_write_the_schema_and_an_answer_that_ends_early_is_an_error(folder, monkeypatch):
    shape = constrained_rate.shape_of(str(folder))
    model = constrained_rate.random_with_tokenizer(shape, str(folder), torch.float32, torch.device("cpu"))
    engine = constrained_rate.Engine(model, constrained_rate.Full(), constrained_rate.EngineConfig.parse({}))
    answers, step = {}, engine.step

    def noted():
        done = step()
        answers.update({one.id: one.token_ids for one in done})
        return done

    monkeypatch.setattr(engine, "step", noted)
    assert constrained_rate.run(engine, [[5, 6, 7]] * 3, 6, 2)["tokens_per_s"] > 0
    tokenizer = model.load_tokenizer()
    assert all(tokenizer.decode(answers[name]).startswith('[{"a"') for name in "01")
    monkeypatch.setattr(constrained_rate, "_ENDLESS", constrained_rate.Grammar.of_choices(["y"]))
    with pytest.raises(RuntimeError, match="ended after"):
        constrained_rate.run(engine, [[5, 6, 7]], 6, 1)
