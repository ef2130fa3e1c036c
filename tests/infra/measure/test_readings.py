"""Both sides of one reading on a model of seconds: what each reads, and how it stands beside vLLM's record."""

import json

import pytest

from corm_batch.bench.workload import find_workload
from corm_batch.errors import SpecError
from infra.measure import readings

ASKED = ["--questions", "3", "--question-tokens", "5"]
TOKENS = find_workload("tiny-256").prompt_tokens


@pytest.fixture
def device(monkeypatch):
    """Its name, so that a record of vLLM can be of the same one."""
    monkeypatch.setattr(readings, "device_name", lambda device: "Card")
    return "Card"


def write_vllm(path, device):
    """A record of documents in bfloat16 and in fp8."""
    made = {"workload": "tiny-256:4", "questions": 3, "question_tokens": 5}
    fp8 = made | {"quantization": "fp8", "kv_dtype": "fp8", "documents_per_hour": 500.0}
    plain = made | {"quantization": None, "kv_dtype": "auto", "documents_per_hour": 1000.0}
    path.write_text(json.dumps({"device": device, "rows": [fp8, plain]}))
    return path


def test_both_sides_answer_all_and_what_each_reads_is_counted(tmp_path, device):
    record = tmp_path / "readings.json"
    counts = ["--max-sequences", "6", "--waves", "2", "--apart", "2"]
    beside = str(write_vllm(tmp_path / "vllm.json", device))
    readings.main(["--workload", "tiny-256:4", *ASKED, *counts, "--beside", beside, "--output", str(record)])
    written = json.loads(record.read_text())
    (row,) = written["rows"]
    shared, apart = row["shared"], row["apart"]
    assert (shared["documents"], shared["prompts_in_flight"], row["answer_tokens"]) == (4, 6, 4)
    assert shared["tokens_read"] == 4 * (TOKENS + 3 * 5)
    assert (apart["documents"], apart["tokens_read"]) == (2, 2 * 3 * (TOKENS + 5))
    assert shared["pool_bytes_peak"] < apart["pool_bytes_peak"] <= row["pool_bytes"]
    rates = shared["documents_per_hour"], apart["documents_per_hour"]
    assert row["shared_over_apart"] == round(rates[0] / rates[1], 3)
    assert row["over_vllm"] == round(rates[0] / 1000, 3)
    assert written["policy"] == "corm"


def test_the_default_for_unknown_questions_reads_twice_and_keeps_half(tmp_path):
    record = tmp_path / "readings.json"
    counts = ["--documents", "2", "--apart", "0", "--policy", "unknown", "--storage", "fp8"]
    readings.main(["--workload", "tiny-256:4", *ASKED, *counts, "--output", str(record)])
    (row,) = json.loads(record.read_text())["rows"]
    assert row["shared"]["tokens_read"] == 2 * (TOKENS + 3 * 5)  # what is repeated is not counted as read
    assert "apart" not in row
    assert "shared_over_apart" not in row


def test_only_the_same_questions_in_as_many_bits_stand_beside_each_other():
    found = {"workload": "a", "questions": 8, "question_tokens": 48, "shared": {"documents_per_hour": 30.0}}
    theirs = {"workload": "a", "questions": 8, "question_tokens": 48, "documents_per_hour": 20.0}
    rows = [
        theirs | {"quantization": "fp8", "kv_dtype": "fp8"},
        theirs | {"quantization": None, "kv_dtype": "auto", "question_tokens": 47},
        theirs | {"quantization": None, "kv_dtype": "auto", "documents_per_hour": 40.0},
    ]
    assert readings.over_vllm(found, rows, "fp8", "fp8") == 1.5
    assert readings.over_vllm(found, rows, "stored", "model") == 0.75
    assert readings.over_vllm(found, rows, "fp8", "model") is None


def test_a_record_of_another_device_or_none_is_refused(tmp_path):
    with pytest.raises(SpecError, match="measured on Card, this is Other"):
        readings.read_beside(write_vllm(tmp_path / "vllm.json", "Card"), "Other")
    with pytest.raises(SpecError, match="--beside"):
        readings.read_beside(tmp_path / "none.json", "Card")
