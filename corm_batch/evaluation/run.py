"""run_evaluation: a reference twice, then every candidate, each in an engine of its own, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from corm_batch.engine.engine import EngineCore
from corm_batch.errors import FileError, SpecError
from corm_batch.evaluation.answers import Answered, AnswerStore
from corm_batch.evaluation.asking import Asked, answer, lay_out
from corm_batch.evaluation.base import Suite
from corm_batch.evaluation.figures import Answers, Runs, build_figures, failures
from corm_batch.evaluation.provenance import free_device_memory, provenance, settings_key, storage_name
from corm_batch.evaluation.result import Candidate, Evaluation
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer

LoadEngine = Callable[[JobSpec], tuple[EngineCore, PromptTokenizer]]
"""Loads the model of a job, under the job's policy."""
_TEXT_CHARS = 4_000_000
"""Of the job's own documents, read as text to plant in."""


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated.

    Attributes:
        reference: the job whose answers all others are compared with; says model, engine and source.
        model_hash: which weights those are.
        candidates: the same job under other policies or settings, by label.
        suites: by label.
        lengths, cases, seed: see `Suite.cases`.
        command: noted in the result.
        author: the job whose answers are scored, where a suite asks for scores; None: the reference.
        other_weights: which weights those of a candidate are that has others, by label.
    """

    reference: JobSpec
    model_hash: str
    candidates: Mapping[str, JobSpec]
    suites: Mapping[str, Suite]
    lengths: Sequence[int]
    cases: int
    seed: int | str
    command: str
    author: JobSpec | None = None
    other_weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far one run is.

    Attributes:
        label: of the reference's policy, or the candidate's.
        done, cases: with an answer, and in all.
        before: answered by an earlier evaluation.
        seconds: since it began, the load of the model included.
    """

    label: str
    done: int
    cases: int
    before: int
    seconds: float


def run_evaluation(
    plan: Plan,
    tokenizer: PromptTokenizer,
    load: LoadEngine,
    store: AnswerStore,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Evaluation:
    """Answer what `store` does not hold yet, and compare.

    Args:
        plan: what is asked.
        tokenizer: of the reference's model.
        load: called once for each run that has something to answer.
        store: holds the answers; grows.
        on_progress: called when a run begins, every few seconds and when it ends.

    Raises:
        SpecError, SourceError: the cases cannot be made.
        ModelError: the model cannot be loaded.
        OutputError: answers cannot be written.
    """
    reference = plan.reference
    texts = job_texts(reference) if any(suite.needs_texts for suite in plan.suites.values()) else []
    asked = list(lay_out(plan.suites, tokenizer, plan.lengths, plan.cases, plan.seed, texts))
    if not asked:
        raise SpecError(f"--suite: {', '.join(plan.suites)}: no case at all comes of it")
    unique = list({one.key: one for one in asked}.values())
    name = reference.policy.name

    def run(label: str, job: JobSpec, cases: Sequence[Asked], *, again: bool = False) -> Answers:
        weights = plan.other_weights.get(label, plan.model_hash)
        return _Run(weights, label, job, again).answers(cases, load, store, on_progress)

    answers = run(name, reference, unique)
    if any(suite.own_answers for suite in plan.suites.values()):
        authored = answers if plan.author is None else run(plan.author.policy.name, plan.author, unique)
        asked = [_scored(one, authored[one.key]) for one in asked]
        unique = list({one.key: one for one in asked}.values())
        answers = run(name, reference, unique)
    runs = Runs(
        reference=answers,
        again=run(f"{name}, again", reference, unique, again=True),
        candidates={label: run(label, job, unique) for label, job in plan.candidates.items()},
    )
    candidates = [
        Candidate(label=label, policy=job.policy.to_spec(), storage=storage_name(job))
        for label, job in plan.candidates.items()
    ]
    sides = {name: runs.reference, f"{name}, again": runs.again, **runs.candidates}
    return Evaluation(
        **provenance(reference, plan.model_hash, plan.command),
        engine=reference.engine.model_dump(mode="json"),
        candidates=candidates,
        suites={label: suite.to_spec() for label, suite in plan.suites.items()},
        lengths=list(plan.lengths),
        cases=plan.cases,
        seed=plan.seed,
        figures=list(build_figures(reference.model.name, asked, runs, candidates)),
        failures=[failure for label, side in sides.items() for failure in failures(label, unique, side)],
    )


def _scored(asked: Asked, answered: Answered) -> Asked:
    """The case with the answer that was given to be scored, where its suite asks for that and there is one."""
    if not asked.suite.own_answers or answered.error is not None:
        return asked
    return replace(asked, answer_ids=answered.token_ids)


@dataclass(frozen=True)
class _Run:
    """All cases under one job's settings; `again`: others beside each than the first time."""

    model_hash: str
    label: str
    asked_of: JobSpec
    again: bool

    @property
    def key(self) -> str:
        """Says what the answers depend on but the case: model, policy, engine, and which of the reference's runs."""
        return settings_key(self._job(), self.model_hash, task=False, variant=self.again)

    def answers(
        self, asked: Sequence[Asked], load: LoadEngine, store: AnswerStore, on_progress: Callable[[Progress], None]
    ) -> Answers:
        """Of every case, from the store or from an engine, which is gone when this returns."""
        found = store.of(self.key)
        missing = [one for one in asked if one.key not in found]
        before, started = len(asked) - len(missing), time.monotonic()

        def tell() -> None:
            done = sum(one.key in found for one in asked)
            on_progress(Progress(self.label, done, len(asked), before, time.monotonic() - started))

        tell()
        if missing:
            key = self.key
            try:
                for one in self._answered(missing, load):
                    found[one.case] = one
                    if store.note(key, one):
                        tell()
            finally:
                store.flush()
                tell()
                free_device_memory()
        return found

    def _answered(self, missing: Sequence[Asked], load: LoadEngine) -> Iterable[Answered]:
        engine, tokenizer = load(self._job())
        try:
            yield from answer(engine, tokenizer, missing, shortest_first=self.again)
        finally:
            engine.close()

    def _job(self) -> JobSpec:
        engine = self.asked_of.engine
        if not self.again:
            return self.asked_of
        fewer = {"max_sequences": max(1, engine.max_sequences // 2)}
        return self.asked_of.model_copy(update={"engine": engine.model_copy(update=fewer)})


def job_texts(job: JobSpec) -> list[str]:
    """The job's own documents, from the first on, up to some million characters; what cannot be read is left out.

    Raises:
        SourceError, SpecError: see `Source.splits`.
    """
    texts: list[str] = []
    total = 0
    for split in job.source.splits():
        try:
            for document in job.source.read(split, ()):
                if document.text is not None and document.left_out is None:
                    texts.append(document.text)
                    total += len(document.text)
                if total >= _TEXT_CHARS:
                    return texts
        except FileError:  # a run names it
            continue
    return texts
