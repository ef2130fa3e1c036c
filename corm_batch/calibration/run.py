"""run_calibration: many policies on few documents, fewer on more, and the last few on documents that chose none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from corm_batch.calibration.contest import FEWEST, Clock, Contest, Progress
from corm_batch.calibration.loss import MaxLoss
from corm_batch.calibration.race import Race
from corm_batch.calibration.result import Calibration
from corm_batch.calibration.sample import Drawn
from corm_batch.calibration.verdicts import Verdicts
from corm_batch.errors import SpecError
from corm_batch.evaluation.provenance import provenance

_KEPT = 0.05
"""Share of the time that nothing is planned for: the last documents may take longer than those before."""
_LEAST = 3 * FEWEST
_REASONS = 3


@dataclass(frozen=True)
class Plan:
    """What is to be calibrated.

    Attributes:
        limit: what may be lost.
        drawn: documents, in the order in which they are taken.
        sizes: tokens of the prompts about each document, by id.
        fields: each policy's section of a spec, by label.
        minutes: in which it ends.
        shared_pass: whether one pass over a prompt serves all policies.
        command: noted in the result.
        storage: name of the form in which entries are kept under these policies; of several, with commas between.
    """

    limit: MaxLoss
    drawn: Drawn
    sizes: Mapping[str, int]
    fields: Mapping[str, Mapping[str, object]]
    minutes: float
    shared_pass: bool
    command: str
    storage: str = "model"


def run_calibration(
    plan: Plan, race: Race, started: float, on_progress: Callable[[Progress], None] = lambda progress: None
) -> Calibration:
    """Choose among the race's policies, and confirm the choice.

    Args:
        plan: what is asked.
        race: the policies and who answers.
        started: monotonic seconds from which the time counts.
        on_progress: called after every step.

    Raises:
        SpecError: there are too few documents with an answer.
        OutputError: answers cannot be written.
    """
    documents = plan.drawn.documents
    if len(documents) < _LEAST:
        raise SpecError(
            f"source: {len(documents)} usable documents: half of them choose a policy and half confirm it, so that it "
            f"takes {_LEAST} at least"
        )
    clock = Clock(started, started + 60 * plan.minutes * (1 - _KEPT))
    contest = Contest(documents, race, plan.limit.nats, clock, plan.sizes, on_progress)
    contest.run()
    if not contest.chosen_on:
        reasons = "; ".join(dict.fromkeys(exam.problem for exam in race.exams.values() if exam.problem))
        raise SpecError(f"source: no document that was tried has an answer: {reasons}")
    return _result(plan, race, contest, time.monotonic() - started)


def _result(plan: Plan, race: Race, contest: Contest, seconds: float) -> Calibration:
    verdicts = Verdicts(contest, plan.fields)
    exams = [race.exams[doc_id] for doc_id in (*contest.chosen_on, *contest.held_out)]
    prompts = [len(request.token_ids) for exam in exams for request in exam.requests]
    problems = [exam.problem for exam in race.exams.values() if exam.problem is not None]
    job = race.job
    return Calibration(
        **provenance(job, race.model_hash, plan.command),
        task=job.task.to_spec(),
        storage=plan.storage,
        max_loss=plan.limit.text,
        limit=plan.limit.nats,
        read=plan.drawn.read,
        whole=plan.drawn.whole,
        chosen_on=len(contest.chosen_on),
        held_out=len(contest.held_out),
        prompts=len(prompts),
        prompt_tokens=round(median(prompts)),
        unanswered=len(race.exams) - len(exams),
        reasons=list(dict.fromkeys(problems))[:_REASONS],
        shared_pass=plan.shared_pass,
        minutes=plan.minutes,
        seconds=seconds,
        tried=list(verdicts.tried()),
        chosen=verdicts.chosen,
        best=None if verdicts.chosen else verdicts.best,
    )
