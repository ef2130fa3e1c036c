"""Several answers of one prompt and their tokens, in a row."""

import itertools
import json

import pyarrow as pa
import pytest

from corm_batch.errors import AnswerError, DocumentError, SpecError
from corm_batch.tasks.base import Answer, AnswerToken, Task
from corm_batch.tasks.sampled import ANSWERS
from corm_batch.tasks.scored import LOGPROBS

DRAWN = {"name": "prompt", "template": "{{ text }}", "overflow": "error", "temperature": 0.5, "n": 3}


def replies(*given):
    answers = itertools.cycle(given)
    return lambda prompt: next(answers)


def test_one_answer_is_the_row_as_it_always_was(fake_asker, answer):
    task = Task.from_spec({**DRAWN, "n": 1})
    result = answer(task, fake_asker(lambda prompt: prompt.instruction.upper()), "a")
    assert (result.output, result.columns, result.pieces, task.result_fields) == ("A", {}, 1, [])
    assert task.sampling.logprobs is None


def test_several_are_asked_at_once_and_stand_side_by_side(fake_asker, answer):
    asker = fake_asker(replies(("one", -1.0), ("two", -2.0), ("x" * 300, -3.0)))
    result = answer(Task.from_spec({**DRAWN, "max_new_tokens": 256}), asker, "a")
    assert (asker.asked_together, asker.most_in_flight) == ([3], 3)
    assert json.loads(result.output) == result.columns["answers"] == ["one", "two", "x" * 256]
    assert result.columns["finish_reasons"] == ["stop", "stop", "length"]
    assert result.columns["mean_logprobs"] == [-1.0, -2.0, -3.0]
    assert (result.finish_reason, result.pieces, result.failed_fields) == ("length", 3, {})


def test_one_that_fails_is_null_and_named_and_all_that_fail_fail_the_row(fake_asker, answer):
    task = Task.from_spec(DRAWN)
    result = answer(task, fake_asker(replies("one", AnswerError("only thought"), "three")), "a")
    assert result.columns["answers"] == ["one", None, "three"]
    assert result.columns["mean_logprobs"][1] is None
    assert result.failed_fields == {"answers[1]": "only thought"}
    with pytest.raises(AnswerError, match="only thought"):
        answer(task, fake_asker(replies(AnswerError("only thought"))), "a")
    with pytest.raises(DocumentError, match="refused"):
        answer(task, fake_asker(replies(DocumentError("refused"))), "a")


def test_greedy_answers_are_not_several(fake_asker, answer):
    with pytest.raises(SpecError, match="3 answers at temperature 0 are 3 times the same"):
        Task.from_spec({**DRAWN, "temperature": 0})
    task = Task.from_spec({**DRAWN, "temperature": 0, "row_values": {"temperature": "t"}})
    with pytest.raises(DocumentError, match="set a temperature above 0"):
        answer(task, fake_asker(replies("one")), "a")
    with pytest.raises(SpecError, match="overflow: truncate or error"):
        Task.from_spec({**DRAWN, "overflow": "map_reduce", "reduce_template": "{{ outputs }}"})


def test_tokens_are_a_typed_column_of_each_answer():
    task = Task.from_spec({**DRAWN, "logprobs": 1})
    assert task.sampling.logprobs == 1
    likeliest = AnswerToken(" b", 7, b" b", -0.25)
    tokens = (AnswerToken("\ufffd", 5, b"\xc3", -1.5, (likeliest,)),)
    given = [Answer("one", "stop", -1.5, tokens), AnswerError("none"), Answer("two", "stop", -1.0, ())]
    result = task.result(given, 3)
    assert list(task.result_fields) == [*ANSWERS, LOGPROBS]
    (found,) = pa.Table.from_pylist([dict(result.columns)], schema=pa.schema([LOGPROBS]))["logprobs"].to_pylist()
    first, failed, empty = found
    assert (failed, empty) == (None, [])
    top = {"token": " b", "token_id": 7, "bytes": b" b", "logprob": -0.25}
    assert first == [{"token": "\ufffd", "token_id": 5, "bytes": b"\xc3", "logprob": -1.5, "top_logprobs": [top]}]
