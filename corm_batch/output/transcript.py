"""Transcript: everything the model wrote about one document, kept whatever becomes of it. Knows nothing of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from corm_batch.text.repetition import repetition


@dataclass
class Transcript:
    """What was said about one document, prompt by prompt, in the order the answers came.

    Attributes:
        answers: all text of each answer, its reasoning included.
        truncated: only part of the document was put into a prompt.
        repetition: of the answer that repeats itself most, the share (0 to 1) that does.
    """

    answers: list[str] = field(default_factory=list)
    truncated: bool = False
    repetition: float = 0.0
    _reasoning: list[str] = field(default_factory=list)
    _cut: bool = False

    def add(self, answer: str, reasoning: str, finish_reason: str, token_ids: tuple[int, ...]) -> None:
        """Take one answer: all its text, what of that is reasoning ("" for none), why it ended, and its tokens."""
        self.answers.append(answer)
        self._reasoning += [reasoning] if reasoning else []
        self._cut |= finish_reason == "length"
        self.repetition = max(self.repetition, repetition(token_ids))

    @property
    def text(self) -> str:
        """All answers, a blank line between them."""
        return "\n\n".join(self.answers)

    @property
    def reasoning(self) -> str:
        """The reasoning of all answers, a blank line between them."""
        return "\n\n".join(self._reasoning)

    @property
    def finish_reason(self) -> str:
        """ "length" when any answer was cut off, else "stop"."""
        return "length" if self._cut else "stop"
