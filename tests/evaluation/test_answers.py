"""Answers on their way into files: nothing noted is lost, whatever happens while it is written."""

import pytest

from corm_batch.errors import OutputError
from corm_batch.evaluation import answers
from corm_batch.evaluation.answers import Answered, AnswerStore


def answered(case):
    return Answered(case, f"text of {case}", (1, 2), "stop")


def test_what_is_noted_is_written_after_a_while_and_at_the_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(answers.time, "monotonic", lambda: now[0])
    store = AnswerStore(str(tmp_path))
    assert not store.note("run", answered("a"))
    now[0] = 21.0
    assert store.note("other", answered("b"))
    assert not store.note("run", answered("c"))
    assert AnswerStore(str(tmp_path)).of("run") == {"a": answered("a")}
    store.flush()
    written = AnswerStore(str(tmp_path))
    assert written.of("run") == {"a": answered("a"), "c": answered("c")} == store.of("run")
    assert written.of("other") == {"b": answered("b")}


def test_what_could_not_be_written_is_written_once_it_can(tmp_path, monkeypatch):
    def fails(*_):
        raise OutputError("disk full")

    store = AnswerStore(str(tmp_path))
    store.note("run", answered("a"))
    with monkeypatch.context() as full:
        full.setattr(answers, "write_whole", fails)
        with pytest.raises(OutputError, match="disk full"):
            store.flush()
    store.flush()
    assert AnswerStore(str(tmp_path)).of("run") == {"a": answered("a")}
