"""ScoredTask: a task whose rows tell how likely the model found every token of an answer, where that is asked for.

Knows nothing of what is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pydantic import Field

from corm_batch.data.schema import column
from corm_batch.engine.request import SamplingParams
from corm_batch.tasks.base import Answer, Task

_TOKEN = [
    pa.field("token", pa.string()),
    pa.field("token_id", pa.int64()),
    pa.field("bytes", pa.binary()),
    pa.field("logprob", pa.float64()),
]
TOKENS = pa.list_(pa.struct([*_TOKEN, pa.field("top_logprobs", pa.list_(pa.struct(_TOKEN)))]))

LOGPROBS = column(
    "logprobs",
    pa.list_(TOKENS),
    "of each answer all tokens that the model wrote, reasoning and the one that ends it included, with their "
    "natural-log probabilities and the likeliest tokens in their places; under the model's rules, the penalties and "
    "the form of the answer, before temperature, top_k, top_p and min_p",
    unit="nats",
    detail="yes",
)


class ScoredTask(Task):
    """With `logprobs` the column of that name has the tokens of each answer."""

    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="keep the log-probability of every token of an answer, and of so many likeliest ones in its place; "
        "with penalties, before temperature",
    )

    @property
    def sampling(self) -> SamplingParams:
        """With the log-probabilities that are asked for."""
        return super().sampling.model_copy(update={"logprobs": self.logprobs})

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """The column of tokens, where they are asked for."""
        return () if self.logprobs is None else (LOGPROBS,)


def logprobs_of(answers: Iterable[Answer | None]) -> list[list[dict[str, Any]] | None]:
    """The tokens of each answer, as the column has them; None for those of which nothing is known."""
    return [
        None if one is None or one.logprobs is None else [asdict(token) for token in one.logprobs] for one in answers
    ]
