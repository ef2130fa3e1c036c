"""Figures of answers: every policy's beside the full cache's, pair by pair, with the noise floor beside each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from corm_batch.evaluation.answers import Answered
from corm_batch.evaluation.asking import Asked
from corm_batch.evaluation.paired import paired_means, paired_shares
from corm_batch.evaluation.result import ALL, Candidate, Cost, Failure, Figure

Answers = Mapping[str, Answered]
"""Of one run, by the case's key."""


@dataclass(frozen=True)
class Runs:
    """The answers of an evaluation.

    Attributes:
        reference: what all others are compared with; in `corm-batch eval` the full cache's.
        again: the reference's once more, other cases beside each.
        candidates: by label.
    """

    reference: Answers
    again: Answers
    candidates: Mapping[str, Answers]


def build_figures(model: str, asked: Sequence[Asked], runs: Runs, candidates: Iterable[Candidate]) -> Iterator[Figure]:
    """Figures in the order of suites, groups, tasks, scores and policies; over all groups and all tasks first where
    there are several, groups only where their questions stand in one place.

    A case counts for a policy when it, and both runs of the full cache, have an answer.
    """
    suites: dict[str, dict[str, list[Asked]]] = {}
    for one in asked:
        suites.setdefault(one.label, {}).setdefault(one.case.group, []).append(one)
    known = list(candidates)
    for groups in suites.values():
        cases = [one for found in groups.values() for one in found]
        together = len(groups) > 1 and len({one.suite.position_text(one.case) for one in cases}) == 1
        for group, found in (({ALL: cases} if together else {}) | groups).items():
            tasks: dict[str, list[Asked]] = {}
            for one in found:
                tasks.setdefault(one.case.task, []).append(one)
            for task, mine in (({ALL: found} if len(tasks) > 1 else {}) | tasks).items():
                yield from _of_task(model, group, task, mine, runs, known)


def _of_task(
    model: str, group: str, task: str, cases: Sequence[Asked], runs: Runs, candidates: Sequence[Candidate]
) -> Iterator[Figure]:
    """Every score of a task under every policy; of all tasks of a group, or all groups of a suite, alike."""
    first = cases[0]
    by_candidate = {}
    for one in candidates:
        answers = runs.candidates[one.label]
        sides = (runs.reference, runs.again, answers)
        pairs = [case for case in cases if all(side[case.key].error is None for side in sides)]
        if pairs:
            by_candidate[one.label] = pairs, [[_scores(case, side[case.key]) for case in pairs] for side in sides]
    names = list(next(iter(by_candidate.values()))[1][0][0]) if by_candidate else []
    for name in names:
        for one in candidates:
            if one.label not in by_candidate:
                continue
            pairs, scores = by_candidate[one.label]
            full, again, there = ([score[name] for score in side] for side in scores)
            share = name in first.suite.shares
            paired = paired_shares if share else paired_means
            texts = [
                sum(side[case.key].token_ids == runs.reference[case.key].token_ids for case in pairs)
                for side in (runs.candidates[one.label], runs.again)
            ]
            yield Figure(
                model=model, suite=first.label, group=group, task=task,
                position=first.suite.position_text(first.case), score=name, share=share, candidate=one.label,
                policy=one.policy, against=paired(full, there), floor=paired(full, again),
                same_text=texts[0] if pairs[0].answer_ids is None else None,
                floor_same_text=texts[1] if pairs[0].answer_ids is None else None, failed=len(cases) - len(pairs),
                cost=_cost(pairs, runs.reference, runs.candidates[one.label]),
            )  # fmt: skip


def _scores(asked: Asked, answer: Answered) -> Mapping[str, float]:
    """What the suite says of an answer; of one that was scored how likely its tokens are."""
    if asked.answer_ids is None:
        return asked.suite.score(asked.case, answer.text)
    likeliest = zip(answer.logprobs, answer.best_logprobs, strict=True)
    return {"logprob": fmean(answer.logprobs), "agreement": fmean(one == best for one, best in likeliest)}


def _cost(cases: Sequence[Asked], full: Answers, answers: Answers) -> Cost:
    def ratio(side: Answers) -> float:
        memory = [side[case.key].memory for case in cases]
        return sum(m.kv_bytes_peak for m in memory) / max(1, sum(m.kv_bytes_full for m in memory))

    kept = fmean(answers[case.key].memory.kept_ratio for case in cases)
    return Cost(kept_ratio=kept, peak_ratio=ratio(answers), full_peak_ratio=ratio(full))


def failures(label: str, asked: Iterable[Asked], answers: Answers) -> Iterator[Failure]:
    """The cases of a run that have no answer."""
    for one in asked:
        if (reason := answers[one.key].error) is not None:
            yield Failure(
                candidate=label, suite=one.label, group=one.case.group, task=one.case.task,
                question=one.case.question, prompt_tokens=len(one.prompt), reason=reason,
            )  # fmt: skip
