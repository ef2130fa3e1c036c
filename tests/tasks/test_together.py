"""Several tasks ask together, whatever each does in between."""

import asyncio

import pytest

from corm_batch.engine.request import SamplingParams
from corm_batch.errors import BrokenEngineError, DocumentError
from corm_batch.tasks.base import Ask, Prompt
from corm_batch.tasks.overflow import prompts_of
from corm_batch.tasks.together import Together

SAMPLING = SamplingParams(max_new_tokens=20)


def run(asker, *tasks, text="text", prompts=()):
    """Each task is a coroutine function of its seat; what they return."""

    async def seated(seat, task):
        with seat:
            return await task(seat)

    async def main():
        async with asyncio.TaskGroup() as group:
            together = Together(asker, group, text, prompts, 20)
            seats = [together.seat() for _ in tasks]
            running = [group.create_task(seated(*pair)) for pair in zip(seats, tasks, strict=True)]
        return [one.result() for one in running]

    return asyncio.run(asyncio.wait_for(main(), 10))


def asks(*instructions, text="text", wait_s=None):
    async def task(seat):
        said = []
        for instruction in instructions:
            if wait_s is not None:
                await asyncio.sleep(wait_s)
            said.append((await seat.ask(Prompt(text, instruction), SAMPLING)).text)
        return said

    return task


def test_what_all_want_to_know_at_one_time_goes_in_one_call(fake_asker):
    asker = fake_asker(lambda prompt: prompt.instruction.upper())

    async def at_once(seat):
        found = await asyncio.gather(*(seat.ask(Prompt("text", one), SAMPLING) for one in "xyz"))
        return [one.text for one in found]

    found = run(asker, asks("a", wait_s=0.01), asks("b", "c"), at_once)
    assert found == [["A"], ["B", "C"], ["X", "Y", "Z"]]
    assert asker.asked_together == [5, 1]
    assert [one.instruction for one in asker.prompts] == ["a", "b", "x", "y", "z", "c"]


def test_other_texts_are_asked_at_the_same_time_apart(fake_asker):
    asker = fake_asker(lambda prompt: prompt.text)
    assert run(asker, asks("a"), asks("b", text="other"), asks("c")) == [["text"], ["other"], ["text"]]
    assert sorted(asker.asked_together) == [1, 2]
    assert asker.most_in_flight == 3


def test_a_task_that_asks_nothing_or_fails_keeps_nobody_waiting(fake_asker):
    asker = fake_asker(lambda prompt: DocumentError("no") if prompt.instruction == "b" else "yes")

    async def nothing(seat):
        return "nothing"

    async def fails(seat):
        with pytest.raises(DocumentError, match="no"):
            await seat.ask(Prompt("text", "b"), SAMPLING)
        return seat.written

    assert run(asker, asks("a", "c"), nothing, fails) == [["yes", "yes"], "nothing", None]


def test_an_engine_that_breaks_ends_all(fake_asker):
    asker = fake_asker(lambda prompt: BrokenEngineError("gone"))
    with pytest.raises(ExceptionGroup) as caught:
        run(asker, asks("a"), asks("b"))
    assert isinstance(caught.value.exceptions[0], BrokenEngineError)


def test_cancelling_ends_what_is_asked(fake_asker):
    asker = fake_asker(lambda prompt: "late")
    asker.ask_all = lambda asks: asyncio.sleep(60)

    async def main():
        async with asyncio.timeout(0.05):
            async with asyncio.TaskGroup() as group:
                seat = Together(asker, group, "text", (), 20).seat()
                group.create_task(seat.ask_all([Ask(Prompt("text", "a"), SAMPLING)]))

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_a_long_text_is_cut_alike_for_all_that_fit(fake_asker):
    asker = fake_asker(lambda prompt: "", context=40)
    known, unknown, longer = prompts_of(["four", "five!", "five!" * 3])

    async def cut(seat):
        return seat.windows("a" * 50, [known], 10)

    async def cut_by_a_longer_one(seat):
        return seat.windows("a" * 50, [longer], 10)

    async def cut_another(seat):
        return seat.windows("b" * 50, [known], 10), seat.truncate("a" * 50, [known], 20)

    windows, own, (others, beginning) = run(
        asker, cut, cut_by_a_longer_one, cut_another, text="a" * 50, prompts=[known, unknown]
    )
    assert [len(one) for one in windows] == [15, 15, 15, 5]
    assert [len(one) for one in own] == [15, 15, 15, 5]
    assert [len(one) for one in others] == [26, 24]
    assert len(beginning) == 15
