"""The recipe runs from text to a model, also when it is killed on the way."""

import argparse
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corm_batch import Engine, Request, SamplingParams
from infra.training import prepare, probe, train
from infra.training.attention import PACKED
from infra.training.compose import ANSWER_WEIGHT, AVOIDED, MAX_SEQUENCES, Instructions, Row
from infra.training.facts import TASKS
from infra.training.model import Settings
from infra.training.stream import step_inputs, stream_rows
from infra.training.train import loss_of
from tests.infra.training.conftest import FERRY, ORCHARD, QUICKSTART

ROOT = QUICKSTART.parents[1]
STEPS, ROW, SAVE_EVERY = 18, 768, 6
OPTIONS = {
    "--size": "tiny", "--row": ROW, "--batch": 1, "--tokens": STEPS * ROW, "--lr": 5e-3, "--seconds": 10**6,
    "--workers": 2, "--save-every": SAVE_EVERY, "--log-every": 1, "--probes": 0, "--probe-lengths": 512,
    "--probe-cases": 1,
}  # fmt: skip
SETTINGS = Settings("qwen3", "tiny", None, "muon", 1e-2, 1e6, 2, 1000, 0)


def arguments(folders, **changes):
    options = OPTIONS | {f"--{name}": value for name, value in changes.items()}
    return [*map(str, folders), *(str(part) for option in options.items() for part in option)]


def start_training(folders):
    """The command as a process, which can be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "infra.training.train", *arguments(folders)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish_training(folders, **changes):
    """The command, measured on the few pages in DATA/books.parquet: the ten books would take half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "BOOKS", folders[0] / "books.parquet")
        patch.setattr(sys, "argv", ["train", *arguments(folders, **changes)])
        train.main()


def read_log(run):
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines() if run.exists() else []
    return [json.loads(line) for line in lines]


def losses(entries):
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill_between_checkpoints(process, run):
    """Stop the run where it has made steps since its last checkpoint, and kill it; its workers."""
    while True:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
        if not (run / "checkpoint.pt").exists():
            continue
        process.send_signal(signal.SIGSTOP)
        if max(losses(read_log(run)), default=0) % SAVE_EVERY in range(2, SAVE_EVERY - 1):
            workers = children(process.pid)
            process.kill()
            process.communicate()
            return workers
        process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, books):
    """Folders of a run that was killed once and started again, its log when it was killed, and its workers."""
    base = tmp_path_factory.mktemp("trained")
    data, work, run = folders = [base / name for name in ("data", "work", "run")]
    (data / "train").mkdir(parents=True)
    (data / "instruct").mkdir()
    pq.write_table(pa.table({"text": books}), data / "train/books.parquet")
    asked = [
        ("extractive_qa", ORCHARD, "Who planted the orchard?", "Ada Brand"),
        ("extractive_qa", ORCHARD, "How many trees are there?", "forty"),
        ("extractive_qa", FERRY, "When does the ferry leave?", "at noon"),
        ("summary", f"{ORCHARD}\n{FERRY}", "Summarize the text.", "An orchard and a ferry."),
    ] * 2
    columns = ("task", "document", "prompt", "answer")
    rows = [dict(zip(columns, row, strict=True)) for row in asked]
    pq.write_table(pa.Table.from_pylist(rows), data / "instruct/asked.parquet")
    held_out = {"kind": ["haystack", "perplexity"], "text": [books[0], books[1][:20_000]]}
    pq.write_table(pa.table(held_out), data / "books.parquet")
    prepare.main(data, work)
    workers = kill_between_checkpoints(start_training(folders), run)
    before = read_log(run)
    finish_training(folders)
    return folders, before, workers


def test_a_killed_run_goes_on_from_its_checkpoint_and_loses_no_step(trained):
    (_, _, run), before, _ = trained
    entries = read_log(run)
    assert entries[: len(before)] == before
    first, second = losses(before), losses(entries[len(before) :])
    assert list(first) == list(range(1, len(first) + 1))
    assert list(second) == list(range(len(first) // SAVE_EVERY * SAVE_EVERY + 1, STEPS + 1))
    again = first.keys() & second.keys()
    assert len(again) == len(first) % SAVE_EVERY > 0
    assert [second[step] for step in again] == pytest.approx([first[step] for step in again], rel=1e-3)


def test_the_workers_of_a_killed_run_end_with_it(trained):
    _, _, workers = trained
    assert len(workers) == OPTIONS["--workers"]
    assert not [worker for worker in workers if is_running(worker)]


def test_training_lowers_the_loss(trained):
    (_, _, run), *_ = trained
    found = losses(read_log(run))
    assert found[1] == pytest.approx(math.log(8192), abs=0.3)  # fresh weights know nothing
    assert np.mean([found[step] for step in range(STEPS - 4, STEPS + 1)]) < found[1] - 1


def test_the_log_has_every_start_and_a_measurement_at_the_end(trained):
    (_, _, run), *_ = trained
    entries = read_log(run)
    starts = [entry for entry in entries if "settings" in entry]
    assert len(starts) == 2
    assert starts[0] == starts[1]
    assert starts[0]["steps"] == STEPS
    (measured,) = [entry for entry in entries if "exact" in entry]
    assert measured["step"] == STEPS
    assert set(measured["exact"]["512"]) == {task.__name__ for task in TASKS}
    assert len(measured["layers"]) == 2
    assert measured["perplexity"] < 8192
    assert entries[-2]["saved"] == str(run / "model")  # before it is measured: nothing that may fail comes first
    assert entries[-1] == measured
    seconds = [entry["seconds"] for entry in entries if "seconds" in entry]
    assert seconds[-1] >= seconds[0]


def test_what_is_left_is_a_model_that_transformers_and_the_engine_run_alike(trained):
    (_, _, run), *_ = trained
    folder = str(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "document", "content": ORCHARD}, {"role": "user", "content": "Who planted it?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt[0] == tokenizer.bos_token_id
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config._attn_implementation != PACKED
    ids = torch.tensor([prompt])
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    engine = Engine.from_pretrained(folder, policy={"name": "full"}, dtype="float32", device="cpu")
    (done,) = engine.run([Request("only", prompt, SamplingParams(max_new_tokens=8))])
    assert done.error is None
    assert list(done.token_ids) == said[0, len(prompt) :].tolist()


def test_other_settings_in_the_folder_of_a_run_are_refused(trained, monkeypatch):
    folders, *_ = trained
    before = read_log(folders[2])
    monkeypatch.setattr("sys.argv", ["train", *arguments(folders, seed=1)])
    with pytest.raises(SystemExit, match=r"checkpoint\.pt is of another run: .*'seed': 0.*asked for .*'seed': 1"):
        train.main()
    assert read_log(folders[2]) == before


def share(done=0.0):
    return multiprocessing.Value("d", done)


def test_a_run_that_its_seconds_end_leaves_a_measured_model(trained, monkeypatch, tmp_path):
    (data, work, run), *_ = trained
    monkeypatch.setattr(train.Training, "seconds", property(lambda self: float(self.step)))  # a step takes a second
    finish_training((data, work, tmp_path), tokens=10**12, seconds=3, start=run / "model")
    entries = read_log(tmp_path)
    assert entries[0]["settings"]["start"] == str(run / "model")
    assert losses(entries)[1] < losses(read_log(run))[1] - 1  # it goes on from what the first run knew
    assert entries[-2]["seconds"] == 3
    assert "exact" in entries[-1]
    assert (tmp_path / "model/model.safetensors").exists()


def test_a_run_that_goes_on_from_a_model_has_its_weights_and_the_longest_sequences_at_once(
    trained, monkeypatch, tmp_path
):
    (data, work, run), *_ = trained
    monkeypatch.setattr(probe, "BOOKS", data / "books.parquet")
    limits = argparse.Namespace(data=data, work=work, run=tmp_path, workers=1, probe_lengths=[512], probe_cases=1)
    training = train.Training(limits, replace(SETTINGS, row=9000, start=str(run / "model")))
    assert next(training.rows).max_seqlen == 8192
    weights = AutoModelForCausalLM.from_pretrained(run / "model").state_dict()
    for name, weight in training.model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[name].float())


def test_where_time_goes_ahead_of_the_rows_their_sequences_grow_with_it(composer_arguments):
    settings = Settings("qwen3", "tiny", None, "muon", 1e-2, 4 * 9000, 1, 9000, 0)
    longest = {
        done: next(stream_rows(composer_arguments, settings, share(done), 0, 1)).max_seqlen for done in (0.0, 0.9)
    }
    assert longest == {0.0: 2048, 0.9: 8192}


@pytest.fixture
def composer_arguments(tokenizer, text, words, instructions):
    return tokenizer, text, words, instructions


def test_rows_are_the_same_however_many_workers_make_them_and_from_wherever_they_start(composer_arguments):
    settings = Settings("qwen3", "tiny", None, "muon", 1e-2, 8 * 600, 1, 600, 3)
    one, two, three, late = (
        list(stream_rows(composer_arguments, settings, share(), first, workers))
        for first, workers in ((0, 1), (0, 2), (0, 3), (5, 2))
    )
    assert (len(one), len(late)) == (8, 3)
    for other in (two, three, [*one[:5], *late]):
        for row, same in zip(one, other, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(row, same, strict=True))
    assert len({row.ids.tobytes() for row in one}) == 8


def test_a_worker_that_dies_ends_the_run_instead_of_keeping_it_waiting(composer_arguments):
    tokenizer, text, words, _ = composer_arguments
    broken = Instructions([(ORCHARD, [("Who?",)])], [])
    with pytest.raises(RuntimeError, match=r"the worker that composes row \d+ died"):
        list(stream_rows((tokenizer, text, words, broken), SETTINGS, share(), 0, 1))


def test_targets_are_the_next_tokens_and_nothing_predicts_another_sequence():
    bounds = np.full(MAX_SEQUENCES + 1, 7, np.int32)
    bounds[:2] = 0, 4
    row = Row(np.arange(10, 17, dtype=np.uint16), np.array([1, 1, 4, 4, 1, AVOIDED, 4], np.uint8), bounds, 4)
    ids, target, weight, cu_seqlens = step_inputs(row, torch.device("cpu"))
    assert ids.tolist() == [10, 11, 12, 13, 14, 15, 16]
    assert target[weight > 0].tolist() == [11, 12, 13, 15, 16]
    assert weight.tolist() == [1, 4, 4, 0, AVOIDED, 4, 0]
    assert cu_seqlens.unique().tolist() == [0, 4, 7]


def test_the_loss_weighs_answers_more_and_makes_what_is_to_be_avoided_unlikely():
    weight_VH = torch.eye(3)
    hidden_TH = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [5.0, 0.0, 5.0], [0.0, 3.0, 0.0]])
    target, weight = torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, ANSWER_WEIGHT, 0.0, AVOIDED])
    text, answer = math.log(math.e**2 + 2) - 2, math.log(math.e + 2) - 1
    avoided = -math.log(1 - math.e**3 / (math.e**3 + 2))
    expected = [(text + 4 * answer + 4 * avoided) / 9, text, answer, avoided]
    assert loss_of(weight_VH, hidden_TH, target, weight).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_certain_repetition_has_a_finite_loss_and_a_gradient():
    hidden_TH = torch.tensor([[9.0, 0.0, 0.0]], requires_grad=True)
    loss = loss_of(torch.eye(3), hidden_TH, torch.tensor([0]), torch.tensor([float(AVOIDED)]))[0]
    loss.backward()
    assert loss.isfinite()
    assert hidden_TH.grad[0, 0] > 0.4
