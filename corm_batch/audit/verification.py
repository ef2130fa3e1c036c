"""Verification: what a row says of how its document was verified; a column is said here once, the tables follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from corm_batch.audit.verdict import Verdict


def _column(description: str, unit: str | None = None, *, in_memory: bool = False) -> Any:
    return field(default=None, metadata={"description": description, "unit": unit, "in_memory": in_memory})


@dataclass(frozen=True)
class Verification:
    """The columns, all None where the job does not verify.

    `verified` is False where the document was not chosen and an answer of it could have been held against the full
    cache's: these, those that were, and those of which it failed are what a bound is about.
    """

    verified: bool | None = _column(
        "whether its answers were held against an uncompressed cache; null where the job does not verify, where there "
        "is no answer, where a sampled one was not chosen, and where verify_error says why not",
        in_memory=True,
    )
    agreement: float | None = _column(
        "share of the answer's tokens that an uncompressed cache would have chosen too, ties within verify.min_gap "
        "counted; null where not verified or sampled",
        "ratio",
        in_memory=True,
    )
    first_difference: int | None = _column(
        "place, from 0, of the first token that it would not have chosen, counted through all answers in the order "
        "they were asked for; null where there is none, and where agreement is null",
        in_memory=True,
    )
    largest_gap: float | None = _column(
        "by how much its likeliest token was more probable than the answer's, at the worst place; null where agreement "
        "is null",
        "nats",
    )
    logprob_full: float | None = _column(
        "mean natural-log probability of the answer's tokens under an uncompressed cache; null where not verified",
        "nats",
        in_memory=True,
    )
    logprob_kept: float | None = _column("the same under the cache that it was answered with", "nats")
    rerun: bool | None = _column(
        "whether it was answered again without eviction, and the answer is that one; the figures of verification are "
        "of the first; null where not verified",
        in_memory=True,
    )
    verify_error: str | None = _column("why it could not be verified, or not be answered again; null where all is well")
    verify_share: float | None = _column("verify.share of the run that answered it; null where it does not verify")
    verify_s: float | None = _column(
        "its share, by tokens, of the passes that verified its answers; prefill_s is without them",
        "seconds",
        in_memory=True,
    )

    @classmethod
    def not_chosen(cls, share: float, *, sampled: bool) -> Verification:
        """Of a document with an answer that is not among the `share`."""
        return cls(verified=None if sampled else False, verify_share=share)

    @classmethod
    def failed(cls, share: float, reason: str) -> Verification:
        """Of a document that could not be verified."""
        return cls(verify_error=reason, verify_share=share)

    @classmethod
    def done(cls, share: float, found: Verdict, logprob_kept: float, seconds: float, *, sampled: bool) -> Verification:
        """Of a verified one; what a sampled answer's tokens are is chance, so only their probabilities are told."""
        return cls(
            verified=True,
            agreement=None if sampled else found.agreement,
            first_difference=None if sampled else found.first_difference,
            largest_gap=None if sampled else found.largest_gap,
            logprob_full=found.logprob_full,
            logprob_kept=logprob_kept,
            rerun=False,
            verify_share=share,
            verify_s=seconds,
        )

    @property
    def differs(self) -> bool:
        """Whether an uncompressed cache would have answered otherwise."""
        return self.first_difference is not None

    def answered_again(self) -> Verification:
        """The same of a document whose answer is now an uncompressed cache's."""
        return replace(self, rerun=True)

    def with_error(self, reason: str) -> Verification:
        """The same with what went wrong afterwards."""
        return replace(self, verify_error=reason)
