import asyncio
import time

import pytest

from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.pipeline.engine_thread import BrokenEngineError, EngineThread


def decode(token_ids):
    return {7: "@break", 8: "@endless", 9: "@nap"}.get(token_ids[0], "")


def request(name, first=1):
    return Request(id=name, token_ids=[first, 2, 3, 4], sampling=SamplingParams(max_new_tokens=3))


def threaded(test):
    """Run a coroutine function with an engine and its thread."""

    async def main():
        engine = ScriptedEngine(decode)
        await test(engine, EngineThread(engine, asyncio.get_running_loop()))

    asyncio.run(asyncio.wait_for(main(), 20))


def test_answers_side_by_side():
    async def test(engine, thread):
        completions = await asyncio.gather(*(thread.answer(request(f"r{index}")) for index in range(20)))
        assert [completion.id for completion in completions] == [f"r{index}" for index in range(20)]
        assert all(completion.token_ids == (2, 3, 4) for completion in completions)

    threaded(test)


def test_idle_engine_is_not_stepped():
    async def test(engine, thread):
        await thread.answer(request("a"))
        steps = engine.steps
        await asyncio.sleep(0.2)
        assert engine.steps <= steps + 1

    threaded(test)


def test_cancelling_the_awaiter_cancels_the_request():
    async def test(engine, thread):
        waiting = asyncio.create_task(thread.answer(request("a", first=8)))
        await asyncio.sleep(0.1)
        assert engine.has_work
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await thread.check(5)
        await asyncio.sleep(0.1)
        assert not engine.has_work

    threaded(test)


def test_a_fault_of_the_engine_reaches_everybody():
    async def test(engine, thread):
        waiting = asyncio.create_task(thread.answer(request("innocent", first=8)))
        await asyncio.sleep(0.05)
        with pytest.raises(BrokenEngineError, match="RuntimeError: scripted fault"):
            await thread.answer(request("guilty", first=7))
        with pytest.raises(BrokenEngineError):
            await waiting
        for call in (thread.answer(request("later")), thread.check(5)):
            with pytest.raises(BrokenEngineError, match="scripted fault"):
                await call

    threaded(test)


def test_check_tells_a_slow_step_from_a_hanging_one():
    async def test(engine, thread):
        waiting = asyncio.create_task(thread.answer(request("slow", first=9)))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        with pytest.raises(BrokenEngineError, match="did not finish a step"):
            await thread.check(0.1)
        await thread.check(5)
        assert 0.5 < time.monotonic() - started < 3
        assert (await waiting).finish_reason == "length"

    threaded(test)
