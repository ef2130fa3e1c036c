"""Passages: numbered ones, and a sentence that stands in one of them: in which?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from corm_batch.errors import SpecError
from corm_batch.evaluation.base import LAYOUT_TOKENS, Case, Tokenizer
from corm_batch.evaluation.fact_suite import HaystackSuite, check_length, open_haystack
from corm_batch.evaluation.haystack import Haystack

_ANSWER_TOKENS = 16
_QUESTION_ROOM = 96
_SENTENCE_CHARS = (30, 240)
_TRIES = 200


class Passages(HaystackSuite, name="passages"):
    """Which of several numbered passages a sentence stands in."""

    shares = ("exact", "said")

    passage_tokens: int = Field(120, ge=40, description="tokens of a passage")

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """`count` cases of each length; the sentence stands in one passage alone."""
        haystack = open_haystack(tokenizer, self.haystack, texts, seed)
        for length in lengths:
            room = length - _ANSWER_TOKENS - _QUESTION_ROOM - LAYOUT_TOKENS
            check_length(haystack, length, room)
            if (passages := room // (self.passage_tokens + 8)) < 2:
                raise SpecError(f"lengths: got {length}, which holds no two passages of {self.passage_tokens} tokens")
            haystack.random.seed(f"{seed} passages {length}")
            for _ in range(count):
                yield self._case(haystack, length, passages)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """Whether the answer is the passage's number, and whether that is the first number it says."""
        wanted = case.answers[0]
        said = re.search(r"\d+", text)
        return {
            "said": float(said is not None and said[0] == wanted),
            "exact": float(text.strip(" .") in (wanted, f"Passage {wanted}")),
        }

    def _case(self, haystack: Haystack, length: int, passages: int) -> Case:
        for _ in range(_TRIES):
            texts = [" ".join(haystack.decode(haystack.slice(self.passage_tokens)).split()) for _ in range(passages)]
            place = haystack.random.randrange(passages)
            sentences = re.findall(r"(?<=[.!?] )[^.!?]+[.!?](?= )", texts[place])
            usable = [one for one in sentences if _SENTENCE_CHARS[0] <= len(one) <= _SENTENCE_CHARS[1]]
            usable = [one for one in usable if sum(one in text for text in texts) == 1]
            if usable:
                document = "\n\n".join(f"Passage {number}: {text}" for number, text in enumerate(texts, 1))
                question = (
                    "In which of the passages above does this sentence stand? Answer with the number of the passage.\n"
                    f"{haystack.random.choice(usable)}"
                )
                return Case(f"passages {length}", "passage", document, question, (str(place + 1),), _ANSWER_TOKENS)
        raise SpecError("suite.haystack: its text has hardly a sentence of 30 to 240 characters between two others")
