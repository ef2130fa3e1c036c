"""Together: one asker for several tasks of one document, which asks what they all want to know in one call.

It waits until every task that still runs waits for an answer. Knows nothing of what they ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from corm_batch.engine.request import SamplingParams
from corm_batch.errors import DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.tasks.base import Answer, Ask, Asker, Prompt
from corm_batch.tasks.overflow import MakePrompt, ask_each_text

_Found = list[Answer | DocumentError]


@dataclass
class Together:
    """What the seats share.

    Attributes:
        asker: answers.
        group: where the calls run; it is open as long as a task runs.
        text: the document's, which is cut alike for all.
        prompts: what is known to be put to it.
        max_new_tokens: the tokens of the longest answer.
    """

    asker: Asker
    group: asyncio.TaskGroup
    text: str
    prompts: Sequence[MakePrompt]
    max_new_tokens: int
    _seats: list[Seat] = field(default_factory=list)

    def seat(self) -> Seat:
        """The asker of one more task."""
        self._seats.append(Seat(self))
        return self._seats[-1]

    def hand_on_soon(self) -> None:
        """Ask, once whatever else is about to be asked now has been."""
        asyncio.get_running_loop().call_soon(self._hand_on)

    def _hand_on(self) -> None:
        """Ask what all seats want to know, in their order, unless one has yet to say."""
        taken = [seat for seat in self._seats if seat.is_taken]
        waiting = [(asks, future) for seat in taken for asks, future in seat.wanted if not future.done()]
        if waiting and all(seat.wanted for seat in taken):
            for seat in taken:
                seat.wanted.clear()
            self.group.create_task(self._ask(waiting))

    async def _ask(self, waiting: Sequence[tuple[Sequence[Ask], asyncio.Future[_Found]]]) -> None:
        found = iter(await ask_each_text(self.asker, [ask for asks, _ in waiting for ask in asks]))
        for asks, future in waiting:
            answers = [next(found) for _ in asks]
            if not future.done():
                future.set_result(answers)

    @cached_property
    def windows(self) -> list[str]:
        """The document's windows, which fit all that is known to be put to them.

        Raises:
            DocumentError: an instruction alone fills the context.
        """
        return self.asker.windows(self.text, self.prompts, self.max_new_tokens)

    @cached_property
    def beginning(self) -> str:
        """The document's beginning, likewise."""
        return self.asker.truncate(self.text, self.prompts, self.max_new_tokens)


class Seat:
    """The `Asker` of one task among several; it is taken until it is left."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self._texts: list[str] = []
        self.wanted: list[tuple[Sequence[Ask], asyncio.Future[_Found]]] = []
        self.is_taken = True

    def __enter__(self) -> None:
        """Nothing: it is taken as soon as it is there."""

    def __exit__(self, *_: object) -> None:
        """Nobody has to wait for this task any more."""
        self.is_taken = False
        self._together.hand_on_soon()

    @property
    def written(self) -> str | None:
        """All answers this task was given; None where there are none."""
        return "\n\n".join(self._texts) or None

    async def ask(
        self, prompt: Prompt, sampling: SamplingParams, stop: Sequence[str] = (), grammar: Grammar | None = None
    ) -> Answer:
        """One answer.

        Raises:
            DocumentError: see `Asker`.
        """
        (found,) = await self.ask_all([Ask(prompt, sampling, stop, grammar)])
        if isinstance(found, DocumentError):
            raise found
        return found

    async def ask_all(self, asks: Sequence[Ask]) -> _Found:
        """Answers and errors, once the other tasks wait, too."""
        future: asyncio.Future[_Found] = asyncio.get_running_loop().create_future()
        self.wanted.append((asks, future))
        self._together.hand_on_soon()
        found = await future
        self._texts += [one.text for one in found if isinstance(one, Answer)]
        return found

    def fits(self, prompts: Sequence[Prompt], max_new_tokens: int) -> bool:
        """Whether each of the prompts fits the model's context, with its answer."""
        return self._together.asker.fits(prompts, max_new_tokens)

    def windows(self, text: str, prompts: Sequence[Callable[[str], Prompt]], max_new_tokens: int) -> list[str]:
        """Cut `text` into pieces, those of the other tasks where it is the document and they fit."""
        try:
            shared = self._together.windows if self._shares(text) else []
        except DocumentError:
            shared = []
        if shared and self.fits([prompt(piece) for piece in shared for prompt in prompts], max_new_tokens):
            return shared
        return self._together.asker.windows(text, prompts, max_new_tokens)

    def truncate(self, text: str, prompts: Sequence[Callable[[str], Prompt]], max_new_tokens: int) -> str:
        """The longest beginning of `text` that fits, that of the other tasks where it is the document and fits."""
        try:
            shared = self._together.beginning if self._shares(text) else ""
        except DocumentError:
            shared = ""
        if shared and self.fits([prompt(shared) for prompt in prompts], max_new_tokens):
            return shared
        return self._together.asker.truncate(text, prompts, max_new_tokens)

    def _shares(self, text: str) -> bool:
        return text == self._together.text and bool(self._together.prompts)
