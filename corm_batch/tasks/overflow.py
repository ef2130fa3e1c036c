"""Documents longer than the context: which texts to ask about, and asking about all of them at once.

Knows nothing of what the answers mean or how they become one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from corm_batch.data.document import Document
from corm_batch.errors import DocumentError
from corm_batch.tasks.base import Answer, Ask, Asker, Prompt, Task


def pieces(task: Task, asker: Asker, text: str, prompt: Callable[[str], Prompt]) -> list[str]:
    """The texts to put through `prompt`: all of `text` when it fits the context, else what `task.overflow` says.

    Raises:
        DocumentError: it does not fit and `task.overflow` is "error".
    """
    if asker.fits(prompt(text), task.max_new_tokens):
        return [text]
    if task.overflow == "truncate":
        return [asker.truncate(text, prompt, task.max_new_tokens)]
    if task.overflow == "map_reduce":
        return asker.windows(text, prompt, task.max_new_tokens)
    raise DocumentError(
        f"text of {len(text)} characters, with its instruction and {task.max_new_tokens} new tokens, is longer than "
        "the model's context, and task.overflow is 'error' (map_reduce and truncate would answer)"
    )


async def ask_all(task: Task, asker: Asker, prompts: Iterable[Prompt]) -> list[Answer]:
    """The answers, in the order of `prompts`.

    Raises:
        DocumentError: one of them could not be asked, or was not answered; all have been asked.
    """
    answers, failures = parted(await ask_any(task, asker, prompts))
    if failures:
        raise failures[0]
    return answers


async def ask_any(task: Task, asker: Asker, prompts: Iterable[Prompt]) -> list[Answer | DocumentError]:
    """Like `ask_all`, with the error in the place of an answer that is none."""
    return await asker.ask_all([Ask(prompt, task.sampling, task.stop) for prompt in prompts])


def parted(answers: Iterable[Answer | DocumentError]) -> tuple[list[Answer], list[DocumentError]]:
    """Answers and errors, each in their order."""
    given, failures = [], []
    for answer in answers:
        if isinstance(answer, DocumentError):
            failures.append(answer)
        else:
            given.append(answer)
    return given, failures


def finish_reason_of(answers: Iterable[Answer]) -> str:
    """ "length" when any of the answers was cut off, else "stop"."""
    return "length" if any(answer.finish_reason == "length" for answer in answers) else "stop"


def text_of(document: Document) -> str:
    """The document's text; documents without one have a `problem` and are never given to a task."""
    assert document.text is not None
    return document.text
