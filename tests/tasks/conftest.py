import asyncio

import pytest

from corm_batch.data.document import Document
from corm_batch.errors import DocumentError
from corm_batch.tasks.base import Answer


class FakeAsker:
    """A model whose context is `context` characters, prompt and answer together; `reply` makes the answers.

    `reply` takes the prompt and returns a text, or (text, mean_logprob), or an Answer, or an exception to raise.
    """

    def __init__(self, reply, context=10_000):
        self.reply = reply
        self.context = context
        self.prompts, self.grammars = [], []
        self.asked_together = []
        self.in_flight = self.most_in_flight = self.finished = 0

    async def ask(self, prompt, sampling, stop=(), grammar=None):
        assert self.fits([prompt], sampling.max_new_tokens)
        self.prompts.append(prompt)
        self.grammars.append(grammar)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        answer = self.reply(prompt)
        if isinstance(answer, Exception):
            raise answer
        self.finished += 1
        if isinstance(answer, Answer):
            return answer
        text, mean_logprob = answer if isinstance(answer, tuple) else (answer, -1.0)
        reason = "stop" if len(text) < sampling.max_new_tokens else "length"
        return Answer(text[: sampling.max_new_tokens], reason, mean_logprob)

    async def ask_all(self, asks):
        self.asked_together.append(len(asks))
        answers = (self.ask(one.prompt, one.sampling, one.stop, one.grammar) for one in asks)
        found = await asyncio.gather(*answers, return_exceptions=True)
        if others := [one for one in found if isinstance(one, Exception) and not isinstance(one, DocumentError)]:
            raise others[0]
        return found

    def _size(self, prompt):
        return sum(map(len, (prompt.text, prompt.instruction, *(one.content for one in prompt.messages))))

    def fits(self, prompts, max_new_tokens):
        return max(map(self._size, prompts)) + max_new_tokens <= self.context

    def _room(self, prompts, max_new_tokens):
        room = self.context - max_new_tokens - max(self._size(prompt("")) for prompt in prompts)
        if room < 1:
            raise DocumentError("the instruction alone fills the context")
        return room

    def windows(self, text, prompts, max_new_tokens):
        room = self._room(prompts, max_new_tokens)
        return [text[start : start + room] for start in range(0, len(text), room)]

    def truncate(self, text, prompts, max_new_tokens):
        return text[: self._room(prompts, max_new_tokens)]


@pytest.fixture
def fake_asker():
    return FakeAsker


@pytest.fixture
def answer():
    """Run a task on a text (and columns) and return its result."""

    def run(task, asker, text, **columns):
        return asyncio.run(task.run(Document("doc", text, columns), asker))

    return run
