"""Documents drawn, and what the full cache answers about them."""

from __future__ import annotations

import dataclasses

import pytest

from corm_batch.calibration.sample import draw, examine, score_key
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.evaluation.answers import case_key
from tests.calibration.races import MINUTE, load_tokenizer

DOCUMENTS = {f"d{i:02}": f"Number {i}. {MINUTE * 2}" for i in range(30)}


def ids(drawn):
    return [document.doc_id for document in drawn.documents]


def test_documents_are_drawn_by_hash_whatever_their_order(job):
    first, second = draw(job(DOCUMENTS), 8, "seed"), draw(job(dict(reversed(DOCUMENTS.items()))), 8, "seed")
    assert ids(first) == ids(second)
    assert len(set(ids(first))) == 8
    assert ids(first) != sorted(ids(first))
    assert (first.read, first.whole) == (30, True)
    assert ids(draw(job(DOCUMENTS), 30, "seed"))[:8] == ids(first)
    assert ids(draw(job(DOCUMENTS), 8, "other")) != ids(first)


def test_rows_that_cannot_be_answered_are_none_of_them(job):
    drawn = draw(job([("a", "one"), ("a", "again"), ("b", None), ("c", "three")]), 8, "seed")
    assert sorted(ids(drawn)) == ["a", "c"]


def test_of_a_large_archive_a_part_is_read(job, monkeypatch):
    monkeypatch.setattr("corm_batch.calibration.sample._READ", 0)
    drawn = draw(job(DOCUMENTS), 8, "seed")
    assert (drawn.read, drawn.whole) == (0, False)


def examined(spec, documents, known=None, decode=None):
    tokenizer, engines = load_tokenizer(), []

    def make():
        engines.append(ScriptedEngine(decode or tokenizer.decode))
        return engines[-1]

    exams, new = examine(documents, spec.task, tokenizer, 512, make, known or {})
    return exams, new, engines


def test_an_exam_is_the_jobs_own_prompts_with_the_full_caches_answers(job):
    spec = job(DOCUMENTS)
    documents = draw(spec, 4, "seed").documents
    exams, new, engines = examined(spec, documents)
    assert [exam.doc_id for exam in exams] == [document.doc_id for document in documents]
    for exam, document in zip(exams, documents, strict=True):
        (request,) = exam.requests
        assert document.text.split(".")[0] in load_tokenizer().decode(request.token_ids)
        assert list(request.answer_ids) == list(request.token_ids[1:9])
        assert (request.stop, exam.sampled, exam.problem) == (None, False, None)
        assert exam.longest == len(request.token_ids) + 8
    assert len(new) == 4
    assert len(engines) == 1
    known = {answer.case: answer for answer in new}
    again, nothing, unused = examined(spec, documents, known)
    assert (again, nothing, unused) == (exams, [], [])


def test_a_document_in_pieces_has_several_prompts_and_those_about_its_answers(job):
    spec = job({"long": " ".join(f"{i}. {MINUTE}" for i in range(60))}, task={"overflow": "map_reduce"})
    (exam,), new, _ = examined(spec, draw(spec, 1, "seed").documents)
    assert len(exam.requests) > 2
    assert len({score_key(request) for request in exam.requests}) == len(new) == len(exam.requests)
    assert all(len(request.token_ids) + request.most_new_tokens <= 512 for request in exam.requests)


def test_texts_leave_the_room_that_a_policy_reads_behind_them(job):
    spec = job({"long": " ".join(f"{i}. {MINUTE}" for i in range(60))}, task={"overflow": "truncate"})
    (document,), tokenizer = draw(spec, 1, "seed").documents, load_tokenizer()

    def longest(least_room):
        ((exam,), _) = examine(
            [document], spec.task, tokenizer, 512, lambda: ScriptedEngine(tokenizer.decode), {}, least_room=least_room
        )
        return max(len(request.token_ids) for request in exam.requests)

    assert longest(0) == 512 - 8
    assert 512 - 70 - 2 <= longest(70) <= 512 - 70


def test_drawn_answers_are_told_apart_and_errors_are_the_documents_own(job):
    spec = job(DOCUMENTS, task={"temperature": 0.7})
    documents = draw(spec, 3, "seed").documents
    exams, *_ = examined(spec, documents)
    assert all(exam.sampled for exam in exams)
    worse = [documents[0], dataclasses.replace(documents[1], text="@error"), documents[2]]
    exams, *_ = examined(spec, worse)
    assert [exam.problem for exam in exams] == [None, "scripted refusal", None]


@pytest.mark.parametrize("answer", [None, (1, 2)])
def test_a_key_is_what_is_asked_token_by_token(answer):
    keys = {case_key(new, prompt, answer) for new in (4, 5) for prompt in ((1, 2), (1, 3), (1, 2, 3))}
    assert len(keys) == 6
