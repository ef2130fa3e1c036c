import pyarrow as pa
import pytest

from corm_batch.errors import SpecError
from corm_batch.tasks.base import Task

SPECS = {
    "summarize": {},
    "question_answer": {"question": "why?"},
    "extract": {"schema": {"type": "object", "properties": {"year": {"type": "integer"}}}},
    "prompt": {"template": "{{ text }}", "overflow": "truncate"},
    "chat": {"messages_column": "chat"},
}


def test_every_registered_task_is_held_to_the_contract():
    assert set(SPECS) == set(Task.registered())


@pytest.mark.parametrize("name", SPECS)
def test_spec_round_trip_and_sampling(name):
    task = Task.from_spec({"name": name, **SPECS[name], "max_new_tokens": 7, "temperature": 0.5, "seed": 3})
    assert Task.from_spec(task.to_spec()) == task
    assert (task.sampling.max_new_tokens, task.sampling.temperature, task.sampling.seed) == (7, 0.5, 3)
    assert all(isinstance(field, pa.Field) and field.nullable for field in task.result_fields)


@pytest.mark.parametrize("name", SPECS)
def test_result_columns_are_the_declared_ones(name, fake_asker, answer):
    task = Task.from_spec({"name": name, **SPECS[name]})
    chat = [{"role": "user", "content": "a text"}]
    result = answer(task, fake_asker(lambda prompt: '{"year": 1999}'), "a text", chat=chat)
    assert set(result.columns) == {field.name for field in task.result_fields}
    pa.Table.from_pylist([dict(result.columns)], schema=pa.schema(task.result_fields))
    assert result.pieces == 1


@pytest.mark.parametrize("name", SPECS)
def test_wrong_fields_are_refused_with_their_path(name):
    with pytest.raises(SpecError, match=r"task\.max_new_tokens: .*greater than or equal to 1, got 0"):
        Task.from_spec({"name": name, **SPECS[name], "max_new_tokens": 0})
    with pytest.raises(SpecError, match=r"task\.max_tokens: unknown key; known here: max_new_tokens, "):
        Task.from_spec({"name": name, **SPECS[name], "max_tokens": 5})


def test_one_stop_stands_for_a_list_of_one():
    task = Task.from_spec({"name": "summarize", "stop": "END", "stop_token_ids": 4})
    assert (task.stop, task.stop_token_ids) == (("END",), (4,))
    assert task.sampling.stop_token_ids == (4,)


@pytest.mark.parametrize("wrong", [{"stop": [""]}, {"stop": [3]}, {"stop_token_ids": [-1]}, {"stop_token_ids": "4"}])
def test_what_cannot_stop_an_answer_is_named(wrong):
    (field,) = wrong
    with pytest.raises(SpecError, match=rf"task\.{field}\.0: "):
        Task.from_spec({"name": "summarize", **wrong})
