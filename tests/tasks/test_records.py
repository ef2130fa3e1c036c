"""Attempts: how a later answer mends an earlier one."""

from corm_batch.tasks.base import Answer
from corm_batch.tasks.fields import Reading
from corm_batch.tasks.records import Attempt, ruled

FIRST, SECOND = Answer("1", "stop", -1.0), Answer("2", "stop", -1.0)


def attempt(answer, record, lost=None):
    return Attempt((answer,), record, lost)


def test_good_fields_stay_and_others_are_taken_from_the_later_answer():
    first = attempt(FIRST, {"a": Reading(1), "b": Reading(None, "bad"), "d": Reading(None, "bad")}, "cut")
    second = attempt(SECOND, {"a": Reading(2), "b": Reading(3), "c": Reading(4), "d": Reading(None, "worse")})
    mended = first.mended(second)
    assert mended.record == {"a": Reading(1), "b": Reading(3), "c": Reading(4), "d": Reading(None, "bad")}
    assert (mended.answers, mended.lost) == ((FIRST, SECOND), None)


def test_an_answer_without_a_record_changes_none():
    record = {"a": Reading(1)}
    assert attempt(FIRST, record).mended(attempt(SECOND, None)).record == record
    assert attempt(FIRST, None).mended(attempt(SECOND, record)).record == record
    assert attempt(FIRST, None).mended(attempt(SECOND, None)).record is None


def test_a_value_takes_the_quotation_that_came_later_with_the_same_value():
    first = attempt(FIRST, {"a": Reading(1, quote="wrong"), "b": Reading(2, quote="b")})
    second = attempt(SECOND, {"a": Reading(1, quote="right"), "b": Reading(3, quote="other")})
    assert first.mended(second).record == {"a": Reading(1, quote="right"), "b": Reading(2, quote="b")}


def test_rules_leave_problems_that_are_there():
    record = {"a": Reading(None, "bad"), "b": Reading(2)}

    class Object:
        is_list, properties = False, ("a", "b")

    assert ruled(record, ["b > 2"], Object)["b"].problem == "b = 2 breaks validate: b > 2"
    assert ruled(record, ["a or b > 2"], Object)["a"].problem == "bad"
