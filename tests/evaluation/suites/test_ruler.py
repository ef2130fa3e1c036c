"""RULER's files: tasks and lengths by the folders its scripts write, scored by its string match."""

import pytest

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Suite
from tests.evaluation.suites.files import write_lines

ROW = {"index": 0, "input": "12 and 34. What are the numbers?", "outputs": ["12", "34"], "length": 17}


def test_every_task_and_length_of_a_folder_is_asked(tmp_path, tokenizer):
    for length in (4096, 8192):
        for task in ("niah_multivalue", "qa_1"):
            write_lines(
                tmp_path / f"{length}/data/{task}/validation.jsonl", [ROW, ROW | {"answer_prefix": " They are"}]
            )
    suite = Suite.from_spec({"name": "ruler", "uri": str(tmp_path)})
    cases = list(suite.cases(tokenizer, [], 1))
    assert [(case.group, case.task, case.max_new_tokens) for case in cases] == [
        (f"ruler {length}", task, most)
        for length in (4096, 8192)
        for task, most in (("niah_multivalue", 128), ("qa_1", 32))
    ]  # fmt: skip
    every, question = cases[:2]
    assert (every.document, every.question) == (ROW["input"], "")
    assert suite.position_text(every) == "question within the document"
    assert suite.score(every, "It is 12.") == {"string_match": 0.5}
    assert suite.score(question, "It is 12.") == {"string_match": 1.0}
    assert list(suite.cases(tokenizer, [], 2))[1].prefix == " They are"


def test_a_file_may_be_called_by_its_task_and_has_to_be_by_one(tmp_path, tokenizer):
    (case,) = Suite.from_spec({"name": "ruler", "uri": write_lines(tmp_path / "vt.jsonl", [ROW])}).cases(
        tokenizer, [], 1
    )
    assert (case.group, case.task, case.max_new_tokens) == ("ruler", "vt", 30)
    other = Suite.from_spec({"name": "ruler", "uri": write_lines(tmp_path / "mine.jsonl", [ROW])})
    with pytest.raises(SourceError, match=r"mine.jsonl: neither the file nor a folder above it is called like a task"):
        next(other.cases(tokenizer, [], 1))
