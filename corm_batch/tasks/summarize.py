"""Summaries. Knows nothing of tokens: what fits is the asker's to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from corm_batch.data.document import Document
from corm_batch.errors import AnswerError
from corm_batch.tasks.base import Answer, Asker, Prompt, TaskResult
from corm_batch.tasks.overflow import MakePrompt, ask_all, finish_reason_of, pieces, prompts_of, text_of
from corm_batch.tasks.sampled import SampledTask


class Summarize(SampledTask, name="summarize"):
    """A summary of every document.

    A document longer than the context is, with `overflow: map_reduce`, summarised window by window; the summaries,
    joined in order, are summarised in turn until one prompt holds them all. `logprobs` are those of the last summary.
    """

    instruction: str = Field(
        "Summarise the document above in one paragraph. Keep the facts, names and numbers that matter most, and state "
        "only what the document says.",
        min_length=1,
        description="what is asked of the document, or of each window of a long one",
    )
    reduce_instruction: str = Field(
        "Above are summaries of consecutive parts of one document. Combine them into one summary of the whole document "
        "in one paragraph, and state only what they say.",
        min_length=1,
        description="what is asked of the joined summaries of a long document's windows",
    )

    def prompts(self, document: Document) -> Sequence[MakePrompt]:
        """Its instruction."""
        return prompts_of([self.instruction])

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Summarise one document; AnswerError when its windows' summaries are no shorter than the windows."""
        text, instruction, asked = text_of(document), self.instruction, list[Answer]()
        while True:

            def prompt(piece: str, instruction: str = instruction) -> Prompt:
                return Prompt(piece, instruction)

            prompts = [prompt(piece) for piece in pieces(self, asker, text, prompt)]
            if len(prompts) == 1:
                last = await self.answered(asker, prompts[0])
                cut = "length" in (finish_reason_of(asked), last.finish_reason)
                return replace(last, finish_reason="length" if cut else "stop", pieces=len(asked) + last.pieces)
            answers = await ask_all(self, asker, prompts)
            asked += answers
            summaries = "\n\n".join(answer.text for answer in answers).strip()
            if not 0 < len(summaries) < len(text):
                raise AnswerError(
                    f"{len(answers)} windows, {len(text)} characters in all, were summarised in {len(summaries)} "
                    "characters: that leads to no summary (a smaller task.max_new_tokens may)"
                )
            text, instruction = summaries, self.reduce_instruction
