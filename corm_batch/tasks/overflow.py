"""Documents longer than the context: which texts to ask about, and asking about all of them at once.

Knows nothing of what the answers mean or how they become one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar

from corm_batch.data.document import Document
from corm_batch.errors import AnswerError, DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.tasks.base import Answer, Ask, Asker, Prompt, Task

_BEGINNING = 256  # characters by which prompts about one text are told from those about another
T = TypeVar("T")
MakePrompt = Callable[[str], Prompt]
"""Puts a text, or a window of it, into a prompt."""


def pieces(task: Task, asker: Asker, text: str, *prompts: MakePrompt) -> list[str]:
    """The texts to put through every one of `prompts`: all of `text` when it fits the context with each of them, else
    what `task.overflow` says.

    Raises:
        DocumentError: it does not fit and `task.overflow` is "error".
    """
    if asker.fits([prompt(text) for prompt in prompts], task.max_new_tokens):
        return [text]
    if task.overflow == "truncate":
        return [asker.truncate(text, prompts, task.max_new_tokens)]
    if task.overflow == "map_reduce":
        return asker.windows(text, prompts, task.max_new_tokens)
    raise DocumentError(
        f"text of {len(text)} characters, with its instruction and {task.max_new_tokens} new tokens, is longer than "
        "the model's context, and task.overflow is 'error' (map_reduce and truncate would answer)"
    )


def prompts_of(instructions: Iterable[str]) -> list[MakePrompt]:
    """What puts each of the instructions to a text."""
    return [partial(Prompt, instruction=instruction) for instruction in instructions]


async def ask_all(task: Task, asker: Asker, prompts: Iterable[Prompt]) -> list[Answer]:
    """The answers, in the order of `prompts`.

    Raises:
        DocumentError: one of them could not be asked, or was not answered; all have been asked.
    """
    answers, failures = parted(await ask_any(task, asker, prompts))
    if failures:
        raise failures[0]
    return answers


async def ask_any(
    task: Task, asker: Asker, prompts: Iterable[Prompt], grammars: Iterable[Grammar | None] = repeat(None)
) -> list[Answer | DocumentError]:
    """Like `ask_all`, with the error in the place of an answer that is none.

    Args:
        task: says how to choose answers and when to stop.
        asker: asked.
        prompts: in any order.
        grammars: of their answers, at least as many.

    Raises:
        DocumentError: none of them could be asked.
    """
    asks = [Ask(prompt, task.sampling, task.stop, grammar) for prompt, grammar in zip(prompts, grammars, strict=False)]
    found = await ask_each_text(asker, asks)
    refused = [one for one in found if isinstance(one, DocumentError) and not isinstance(one, AnswerError)]
    if found and len(refused) == len(found):
        raise refused[0]
    return found


async def ask_each_text(asker: Asker, asks: Sequence[Ask]) -> list[Answer | DocumentError]:
    """Answers and errors in the order of `asks`, all in flight at once; those about one text go to the asker together.

    Of prompts that have the text in their instruction, as templates make them, those are that begin alike.

    Raises:
        BrokenEngineError: the engine failed as a whole.
    """
    places: dict[str, list[int]] = {}
    for place, ask in enumerate(asks):
        places.setdefault(ask.prompt.text or ask.prompt.instruction[:_BEGINNING], []).append(place)
    groups = await at_once(asker.ask_all([asks[place] for place in group]) for group in places.values())
    found = dict(zip(chain.from_iterable(places.values()), chain.from_iterable(groups), strict=True))
    return [found[place] for place in range(len(asks))]


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Coroutines side by side: the first exception of one is raised as it is and ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def at_once(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What the coroutines return, in their order; see `task_group`."""
    async with task_group() as group:
        running = [group.create_task(one) for one in coroutines]
    return [one.result() for one in running]


def parted(answers: Iterable[Answer | DocumentError]) -> tuple[list[Answer], list[DocumentError]]:
    """Answers and errors, each in their order."""
    given, failures = [], []
    for answer in answers:
        if isinstance(answer, DocumentError):
            failures.append(answer)
        else:
            given.append(answer)
    return given, failures


def finish_reason_of(answers: Iterable[Answer | AnswerError]) -> str:
    """ "length" when any of the answers, or of what was written in place of one, was cut off, else "stop"."""
    return "length" if any(answer.finish_reason == "length" for answer in answers) else "stop"


def text_of(document: Document) -> str:
    """The document's text; documents without one have a `problem` and are never given to a task."""
    assert document.text is not None
    return document.text
