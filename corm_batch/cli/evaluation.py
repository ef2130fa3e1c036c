"""`corm-batch eval`: what a model answers with a compressed cache, beside what it answers with a full one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from corm_batch.cli.console import error_console, label, number, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath, output_folder
from corm_batch.cli.policy_option import Policies, read_labelled, read_policies
from corm_batch.errors import SpecError
from corm_batch.exit_codes import ExitCode
from corm_batch.report.units import counted, seconds_text

if TYPE_CHECKING:
    from corm_batch.evaluation.base import Suite
    from corm_batch.evaluation.result import Evaluation
    from corm_batch.evaluation.run import Plan, Progress
    from corm_batch.policies.base import KVPolicy
    from corm_batch.spec import JobSpec

_DEFAULT_SUITES = ("needles", "key_value")
_FAILURES = 20


Suites = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|YAML",
        help="What is asked: needles, '{name: squad, questions: squad.parquet}'; may be given again. Default: "
        "needles and key_value, planted in the job's own documents.",
    ),
]


def evaluate(
    spec: SpecPath,
    policy: Policies = None,
    suite: Suites = None,
    cases: Annotated[int, typer.Option(min=1, help="Of each task and length at most.")] = 8,
    lengths: Annotated[
        str, typer.Option(metavar="N,N", help="Tokens of document, question and answer, such as 1024,4096.")
    ] = "1024,4096",
    seed: Annotated[str, typer.Option(help="Of everything that is drawn.")] = "evaluation",
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where answers, evaluation.json and evaluation.html go, local or s3://. Default: _eval below the "
            "job's output.uri.",
        ),
    ] = None,
    overrides: Overrides = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Compare what policies answer with what the full cache answers, case by case.

    The full cache answers twice, with other cases beside each: what differs then is noise, and stands beside every
    figure. Run again, it answers what is not there yet. Exit codes: 0 all cases answered, 3 some were not, 2 the spec
    or an argument is wrong, 130 interrupted.
    """
    from corm_batch.spec import JobSpec

    job = JobSpec.load(spec, overrides or ())
    policies, suites = _policies(job, policy or ()), _suites(suite or _DEFAULT_SUITES)
    folder = output_folder(output, job, "_eval")
    sizes = _lengths(lengths)

    from corm_batch.evaluation.run import Plan
    from corm_batch.pipeline.model import check_model, revision_hash

    for line in (model := check_model(job)).about:
        error_console().print(f"corm-batch: {line}", soft_wrap=True)
    command = shlex.join(["corm-batch", *sys.argv[1:]])
    full = model.settled(_full(job))
    jobs = {label: job.model_copy(update={"policy": policy}) for label, policy in policies.items()}
    candidates = {label: model.settled(one) for label, one in jobs.items()}
    plan = Plan(full, revision_hash(job.model), candidates, suites, sizes, cases, seed, command)
    try:
        result = _run(plan, folder)
    except KeyboardInterrupt:
        error_console().print("interrupted; what was answered is kept: the same command goes on", soft_wrap=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _write(result, folder)
    if as_json:
        for figure in result.figures:
            print_json(figure.model_dump(mode="json"))
    else:
        print_evaluation(output_console(), result)
        for name, content in (("evaluation.html", "tables and curves"), ("evaluation.json", "every figure")):
            output_console().print(f"  {folder}/{name}  {content}", soft_wrap=True)
    raise typer.Exit(ExitCode.FAILED_DOCUMENTS if result.failures else ExitCode.OK)


def _run(plan: Plan, folder: str) -> Evaluation:
    from corm_batch.evaluation.answers import AnswerStore
    from corm_batch.evaluation.run import run_evaluation
    from corm_batch.pipeline.model import load_tokenizer, model_loader, model_path

    def load(job: JobSpec) -> Any:
        model = model_loader(job)()
        return model.engine, model.tokenizer

    errors = error_console()

    def tell(progress: Progress) -> None:
        errors.print(_progress_text(progress), soft_wrap=True)

    model = plan.reference.model
    tokenizer = load_tokenizer(model, model_path(model))
    return run_evaluation(plan, tokenizer, load, AnswerStore(f"{folder}/answers"), tell)


def _progress_text(progress: Progress) -> str:
    """`snapkv: 40 of 140 cases, 12 of them before, 31.0s`."""
    before = f", {progress.before} of them before" if progress.before else ""
    done = f"{progress.done} of {counted(progress.cases, 'case')}"
    return f"{progress.label}: {done}{before}, {seconds_text(progress.seconds)}"


def _write(result: Evaluation, folder: str) -> None:
    from corm_batch.data.filesystem import write_whole
    from corm_batch.report.page.evaluation import render_evaluation

    write_whole(f"{folder}/evaluation.json", (result.model_dump_json(indent=1) + "\n").encode())
    write_whole(f"{folder}/evaluation.html", render_evaluation(result).encode())


def _full(job: JobSpec) -> JobSpec:
    """The job with the full cache, which has every token in every layer: propagation costs what a policy does."""
    from corm_batch.policies.base import KVPolicy

    engine = job.engine.model_copy(update={"propagation": None})
    return job.model_copy(update={"policy": KVPolicy.from_spec({"name": "full"}), "engine": engine})


def _policies(job: JobSpec, given: Sequence[str]) -> dict[str, KVPolicy]:
    """The job's own policy and those given, by label; the full cache, which all are compared with, is none of them."""
    found = {one.label: one.policy for one in read_policies(job, given)}
    if not found:
        raise SpecError("--policy: nothing to compare: the job's policy is full; name one, as --policy snapkv")
    return found


def _suites(given: Sequence[str]) -> dict[str, Suite]:
    """Suites by label: their name, or what the option calls them."""
    from corm_batch.evaluation.base import Suite

    found: dict[str, Suite] = {}
    for one in given:
        own, fields = read_labelled("--suite", one)
        suite = Suite.from_spec(fields)
        name = own or suite.name
        if name in found:
            raise SpecError(f"--suite: two suites are called {name!r}: give them labels, as mine={{name: table, ...}}")
        found[name] = suite
    return found


def _lengths(given: str) -> list[int]:
    parts = given.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SpecError(f"--lengths: got {given!r}, allowed are numbers of tokens with commas between, as 1024,4096")
    return list(dict.fromkeys(map(int, parts)))


def print_evaluation(console: Console, result: Evaluation) -> None:
    """A table for each suite and group, the policies' settings, and the cases without an answer."""
    from corm_batch.report.evaluation import (
        FIGURE_HEADS,
        about_rows,
        failure_rows,
        figure_cells,
        group_title,
        settings_text,
    )

    groups: dict[str, list[tuple[str, ...]]] = {}
    for found in result.groups():
        rows = [(one.task, one.candidate, one.score, *figure_cells(one)) for one in found]
        groups.setdefault(group_title(found[0]), []).extend(rows)
    for title, rows in groups.items():
        columns = [label("task"), label("policy"), label("score"), *map(number, FIGURE_HEADS)]
        print_table(console, title, columns, rows)
    settings = [(one.label, settings_text(one.policy)) for one in result.candidates]
    print_table(console, "Policies", [label("policy"), prose("settings")], settings)
    if failed := list(failure_rows(result)):
        title = f"Cases without an answer: {len(failed)}" + (
            f", of which {_FAILURES}" if len(failed) > _FAILURES else ""
        )
        heads = [label("run"), label("case"), number("prompt tokens"), prose("reason")]
        print_table(console, title, heads, failed[:_FAILURES])
    print_table(console, "About", [label(""), prose("")], about_rows(result), heads=False)
    console.print(result.note, soft_wrap=True)
