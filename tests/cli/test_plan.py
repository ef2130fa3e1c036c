"""corm-batch plan, drawn and as JSON."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corm_batch.pipeline.model import revision_hash
from corm_batch.report.units import seconds_text
from corm_batch.spec import JobSpec
from tests.conftest import RUNS_MODELS

MODEL = Path(__file__).parents[2] / "jobs/quickstart/model"
ROWS = [{"doc_id": f"d{number}", "text": "word " * 40 * (number + 1)} for number in range(20)]


def test_ten_thousand_rows_in_seconds_without_weights_or_ray(write_job):
    """The model's folder holds no weights; nothing that runs models is imported, nor is Ray. 600 bytes a row, 6 MB."""
    job = write_job([{"doc_id": f"d{number}", "text": f"line {number} of a story " * 30} for number in range(10_000)])
    code = (
        "import sys; from corm_batch.cli import main\n"
        f"try: main()\nfinally: assert not ({ ({'ray'} | RUNS_MODELS)!r} & set(sys.modules))"
    )
    started = time.monotonic()
    printed = subprocess.run(
        [sys.executable, "-c", code, "plan", str(job), "--json"], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - started
    planned = json.loads(printed.stdout)
    assert (planned["documents"], planned["measured"], planned["todo"], planned["splits"]) == (
        10_000,
        10_000,
        10_000,
        5,
    )
    assert seconds < 60, "about 10 s on two idle cores, most of them imports"


def test_tables(corm_batch, write_job):
    result = corm_batch("plan", write_job(ROWS, engine={"kv_memory": "16MiB"}))
    assert result.code == 0
    assert "20 documents in 1 parquet file" in result.out
    said = dict(line.split("  ", 1) for line in result.out.partition("\n\n")[0].splitlines()[1:])
    assert said["prompts"].strip().startswith("20 prompts of ")
    assert said["prompts"].endswith(" tokens to read, instruction and template included")
    assert said["policy"].strip().startswith("corm recent=64 window=128")
    assert "Documents by prompt tokens" in result.out
    assert "in a pool of 16.0 MiB" in result.out
    assert result.out.isascii()


def test_tokens_to_write_hours_of_gpus_and_costs(corm_batch, write_job):
    two = {"engine": {"tensor_parallel": 2}, "model": {"name": str(MODEL), "device": "cuda"}}
    job = write_job(ROWS, cluster={"price_per_gpu_hour": 360.0}, **two)
    result = corm_batch("plan", job, "--gpu", "h100")
    assert "up to 320 tokens to write, 16 an answer at most" in result.out
    assert "| documents per GPU hour |" in result.out
    own = corm_batch("plan", job, "--set", "task.row_values.max_new_tokens=doc_id").out
    assert "16 an answer at most, where its row says nothing else" in own
    planned = json.loads(corm_batch("plan", job, "--gpu", "h100", "--json").out)
    assert (planned["prompts"], planned["output_tokens_at_most"]) == (20, 320)
    hours, first = planned["gpu"]["gpu_hours"][0], planned["gpu"]["rows"][0]
    assert hours == 2 * first["hours"]
    row = next(
        [cell.strip() for cell in line.split("|")]
        for line in result.out.partition("On 1 replica of 2 h100")[2].splitlines()
        if line.strip().startswith("100.0%")
    )
    assert float(row[4].replace(",", "")) == pytest.approx(360 * hours, abs=0.01)
    held = json.loads(corm_batch("plan", job, "--gpu", "h100", "--json", "--set", "cluster.gpus_per_replica=4").out)
    assert held["gpu"]["gpu_hours"][0] == 2 * hours
    job = write_job(ROWS, **two)
    assert "cost" not in corm_batch("plan", job, "--gpu", "h100").out.partition("On 1 replica")[2].partition("\n\n")[0]


def test_what_earlier_runs_of_the_same_model_measured(corm_batch, write_job, tmp_path):
    job = write_job(ROWS)
    assert "measured" not in corm_batch("plan", job).out
    model_hash = revision_hash(JobSpec.load(str(job)).model)
    record = {"ok": 3, "failed": 0, "seconds": 30.0, "prompt_tokens": 2900, "output_tokens": 100}
    (tmp_path / "out/_job/runs").mkdir(parents=True)
    for name, of_it in (("a", model_hash), ("b", "other")):
        (tmp_path / f"out/_job/runs/{name}.json").write_text(json.dumps(record | {"model_hash": of_it}))
    planned = json.loads(corm_batch("plan", job, "--json").out)
    assert planned["earlier_runs"]["runs"] == 1
    pace = seconds_text(30.0 / 2900 * planned["prompt_tokens"])
    said = f"1 earlier run of this model here: 100 tokens/s, 360 documents/h; at that pace {pace} for what is to do"
    assert said in corm_batch("plan", job).out


def test_rows_that_the_source_leaves_out_are_no_documents_of_the_plan(corm_batch, write_job):
    options = ["plan", write_job(ROWS), "--set", "source.filter=doc_id in ('d1', 'd2')"]
    lines = corm_batch(*options).out.splitlines()
    assert "left out         18 rows (18: source.filter does not hold) of those looked at" in lines
    assert "answered before  0 ok, 0 failed; 2 to do" in lines
    planned = json.loads(corm_batch(*options, "--json").out)
    assert (planned["documents"], planned["measured"], planned["prompts"]) == (20, 2, 2)
    assert planned["left_out"] == [["source.filter does not hold", 18]]


def test_a_pool_that_is_not_known_yet(corm_batch, write_job):
    job = write_job(ROWS, model={"name": str(MODEL), "device": "cuda"})
    assert "in a pool of 10.0 GiB, for example (engine.kv_memory is not set" in corm_batch("plan", job).out


def test_the_first_prompt_whole(corm_batch, write_job):
    job = write_job([{"doc_id": "a", "text": "Two\nlines \x1b[1m."}, *ROWS])
    assert "<|question|>" not in corm_batch("plan", job).out
    lines = corm_batch("plan", job, "--show-prompt").out.partition("First prompt, as the model sees it\n")[2]
    assert lines.startswith("<|question|> Two\nlines  [1m.\n\nAnswer the question from the document above alone")
    assert "Question: What is the pass key?<|answer|>" in lines
    found = json.loads(corm_batch("plan", job, "--show-prompt", "--json").out)["first_prompt"]
    assert "Two\nlines \x1b[1m." in found


def test_documents_that_would_fail_are_named_with_the_reason(corm_batch, write_job):
    task = {"name": "prompt", "template": "{{ 1 / (text | length - 200) }}", "overflow": "truncate"}
    result = corm_batch("plan", write_job(ROWS, task=task))
    said = [line for line in result.out.splitlines() if line.startswith("would fail")]
    assert len(said) == 1
    assert " 1 document, first d0 in " in said[0]
    assert said[0].endswith(
        "documents.parquet#0:0: task.template cannot be rendered: ZeroDivisionError: division by zero"
    )


def test_a_policy_that_looks_for_a_question_nobody_has_asked_yet_is_named(corm_batch, write_job):
    task = {"name": "question_answer", "questions": ["Who?", "When?"]}
    job = write_job(ROWS, task=task, policy={"name": "snapkv"})
    (said,) = json.loads(corm_batch("plan", job, "--json").out)["about"]
    assert said.startswith("policy snapkv keeps what the last tokens before an answer look at")
    assert "compressed before any" in " ".join(corm_batch("plan", job).out.replace("|", "").split())
    assert (
        json.loads(corm_batch("plan", write_job(ROWS, task=task, policy={"question": "unknown"}), "--json").out)[
            "about"
        ]
        == []
    )


def test_on_a_card(corm_batch, write_job):
    printed = corm_batch("plan", write_job(ROWS), "--gpu", "L40S").out
    assert "On 1 replica of 1 l40s: 73.9 MiB of weights, a pool of " in printed
    assert "88.0% of the physical limit, as exact prefill reached on an H200" in printed
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines()]
    assert ["50.0%", "256"] in [row[:2] for row in rows]
    assert "behind every prompt" not in printed
    job = write_job(ROWS, policy={"name": "kvzip"})
    printed = " ".join(corm_batch("plan", job, "--gpu", "L40S").out.split())
    assert "What kvzip has read behind every prompt, while its cache is full, is in them with " in printed
    result = corm_batch("plan", write_job(ROWS), "--gpu", "h9")
    assert (result.code, result.out) == (2, "")
    assert "--gpu h9: no figures of such a card; known: a10, a100," in result.err


def test_what_a_run_would_refuse_is_said(corm_batch, write_job):
    asked = ["plan", write_job(ROWS), "--set", "task.stop_token_ids=[99999]"]
    result = corm_batch(*asked)
    assert (result.code, result.out.startswith("Job ")) == (2, True)
    assert "a run would not start: task.stop_token_ids: 99999: the model has the tokens 0.." in result.err
    assert json.loads(corm_batch(*asked, "--json").out)["refusal"].startswith("task.stop_token_ids: 99999")


def test_set_changes_the_spec(corm_batch, write_job):
    job = write_job(ROWS)
    assert corm_batch("plan", job, "--set", "engine.kv_memory=1MiB", "--json").code == 0
    planned = json.loads(corm_batch("plan", job, "--set", "engine.kv_memory=1MiB", "--json").out)
    assert planned["pool_bytes"] == 2**20


def test_wrong_spec_and_no_model(corm_batch, write_job, tmp_path):
    result = corm_batch("plan", write_job(ROWS, polcy={"name": "full"}))
    assert result.code == 2
    assert "polcy: unknown key" in result.err

    result = corm_batch("plan", write_job(ROWS, model={"name": str(tmp_path)}))
    assert result.code == 2
    assert f"model.name: no model in '{tmp_path}'" in result.err


def test_the_cost_of_verification(corm_batch, write_job):
    shown = corm_batch("plan", write_job(ROWS, verify={"share": "10%", "on_difference": "rerun", "min_gap": 0.5})).out
    assert "verifies         about 10 % of the documents, each prompt with its answer in one exact pass" in shown
    assert "gaps up to 0.5 nats are ties; what differs is answered again without eviction" in shown
    assert "verifies" not in corm_batch("plan", write_job(ROWS, verify={"share": 0})).out


def test_hours_on_a_card_hold_verification(corm_batch, write_job):
    flag = corm_batch("plan", write_job(ROWS, verify={"share": 1}), "--gpu", "L40S").out
    assert "loading not counted. Verification is in them with " in flag
    assert "answered again" not in flag
    rerun = corm_batch("plan", write_job(ROWS, verify={"share": 1, "on_difference": "rerun"}), "--gpu", "L40S").out
    assert "every prompt that is answered again without eviction adds " in rerun
    assert "Verification is" not in corm_batch("plan", write_job(ROWS), "--gpu", "L40S").out
