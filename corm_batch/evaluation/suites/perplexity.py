"""Perplexity: how likely a model finds the text that goes on behind a long beginning of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from corm_batch.evaluation.base import Case, Tokenizer
from corm_batch.evaluation.fact_suite import HaystackSuite, check_length, open_haystack


class Perplexity(HaystackSuite, name="perplexity"):
    """How likely the next tokens of a text are, its beginning read and compressed; perplexity is exp(-logprob)."""

    shares = ()

    scored_tokens: int = Field(128, ge=1, description="tokens whose likelihood is scored, the last of each length")

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """`count` pieces of the text of each length, from anywhere in it."""
        haystack = open_haystack(tokenizer, self.haystack, texts, seed)
        for length in lengths:
            check_length(haystack, length, length - self.scored_tokens)
            haystack.random.seed(f"{seed} perplexity {length}")
            for _ in range(count):
                piece = haystack.slice(length)
                document, given = (
                    haystack.decode(part) for part in (piece[: -self.scored_tokens], piece[-self.scored_tokens :])
                )
                yield Case(f"texts {length}", "perplexity", document, "", (), 1, given=given)
