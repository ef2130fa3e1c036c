"""What a grammar's mask is, by brute force, for a form that has finitely many answers: the tests' definition."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def allowed(
    answers: Collection[bytes], written: bytes, tokens: Sequence[bytes | None], ends: Collection[int]
) -> set[int]:
    """Token ids that may come behind what has been written: those that begin the rest of an answer, and behind a whole
    one those that end it.

    Args:
        answers: all there are.
        written: so far.
        tokens: what each token id writes; None for those that write nothing.
        ends: token ids that end an answer.
    """
    rests = [answer[len(written) :] for answer in answers if answer.startswith(written)]
    beginnings = {rest[:size] for rest in rests for size in range(1, len(rest) + 1)}
    begins = {token for token, text in enumerate(tokens) if text in beginnings}
    return begins - set(ends) | (set(ends) if b"" in rests else set())
