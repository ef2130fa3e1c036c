"""The quick start's job and its documents are what their README says."""

import collections
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer

FOLDER = Path(__file__).parents[2] / "jobs/quickstart"
SUBJECT = re.compile(r"(?:What is the (?:special magic number for )?|Where did )(.+?)(?: mentioned in the .+)?\?")


@pytest.fixture(scope="module")
def rows():
    return pq.read_table(FOLDER / "documents.parquet").to_pylist()


@pytest.fixture
def spec(monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    return JobSpec.load("jobs/quickstart/job.yaml")


def test_the_job_asks_each_row_its_own_question_and_frees_memory(spec):
    assert spec.task.source_columns == ("question",)
    assert spec.task.overflow == "map_reduce"
    assert (spec.model.dtype, spec.model.document_role, spec.cluster.replicas) == ("float32", "document", 1)
    assert spec.policy.name == "corm"
    assert spec.output.uri.rstrip("/").endswith("/out/quickstart")


def test_every_row_names_its_source_and_licence_and_every_id_is_used_once(rows):
    assert len(rows) == 31
    assert len({row["doc_id"] for row in rows}) == 31
    assert all(value and value.strip() for row in rows for name, value in row.items() if name != "expected")
    assert collections.Counter(row["kind"] for row in rows) == {
        "pass_key": 4, "place_number": 5, "magic_number": 5, "left_object": 5, "one_of_several": 4, "records": 4,
        "summary": 4,
    }  # fmt: skip


def test_24_documents_fit_the_context_and_3_need_windows(rows, spec):
    tokenizer = PromptTokenizer.from_pretrained(spec.model.name, document_role="document")
    questions = [row for row in rows if row["kind"] != "summary"]
    lengths = sorted(len(tokenizer.encode(Prompt(row["text"], row["question"]))) for row in questions)
    assert lengths[0] > 3_000
    assert lengths[23] + spec.task.max_new_tokens <= 8_192
    assert 12_000 <= lengths[24] <= lengths[26] <= 15_200


def test_every_answer_stands_in_its_text_on_a_line_of_its_own_and_nowhere_else(rows):
    for row in rows:
        lines, expected = row["text"].split("\n"), row["expected"]
        if row["kind"] == "summary":
            assert (expected, row["question"]) == (None, "Give a one-sentence summary.")
            continue
        if row["kind"] == "records":
            planted = [line for line in lines if line.startswith("Record: the ")]
            found = [line.removeprefix("Record: the ").removesuffix(" crates.").split(" holds ") for line in planted]
            assert "; ".join(f"{place} {count}" for place, count in found) == expected
            continue
        subject = SUBJECT.fullmatch(row["question"])[1].replace(" leave ", " left ")
        (planted,) = [line for line in lines if expected in line]
        assert subject in planted
        assert planted.endswith(f" {expected}.") or row["kind"] == "pass_key"
