"""`corm-batch bench`: engines side by side on named workloads, and what share of the device's limits they reach."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from rich.console import Console

from corm_batch.cli.console import error_console, label, number, output_console, print_table, prose
from corm_batch.cli.options import refuse_given
from corm_batch.errors import OutputError, SpecError
from corm_batch.report.units import bytes_text, count_text, percent_text, seconds_text

if TYPE_CHECKING:
    from corm_batch.bench.bench import MeasureJob
    from corm_batch.bench.result import BenchResult, Row
    from corm_batch.bench.workload import EngineName, Workload
    from corm_batch.engine.config import WeightForm

HEADS = (
    "engine", "documents/h", "prompt tok/s", "output tok/s", "prefill tok/s", "decode ms/step", "in flight",
    "KV/document", "kept", "peak memory", "of the limit", "corm over it",
)  # fmt: skip

JOB_HEADS = (
    "engine", "replicas", "documents/h", "of the engine's", "after the first answer", "of the engine's", "start",
    "load", "first answer", "steady", "all",
)  # fmt: skip

Forms = Annotated[
    list[str] | None,
    typer.Option(
        metavar="stored|fp8",
        help="As model.weights in a spec; stored: in the workload's dtype. May be given again, to compare.",
    ),
]
Storages = Annotated[
    list[str] | None,
    typer.Option(
        "--storage",
        metavar="model|fp8",
        help="As engine.storage in a spec: the form of kept entries. May be given again, to compare.",
    ),
]
Propagations = Annotated[
    list[str] | None,
    typer.Option(
        metavar="none|NAME",
        help="As engine.propagation in a spec, by its name, with its defaults. May be given again, to compare.",
    ),
]
Through = Annotated[
    Literal["engine", "job"],
    typer.Option(help="job: corm and full once more inside a whole job, with Ray, driver, tokenizer and Arrow."),
]
Replicas = Annotated[
    int, typer.Option(min=1, help="With --through job: replicas, each with the workload's number of documents.")
]
TimeLimit = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0.0, help="Start no further measurement after this long.")
]


def bench(
    context: typer.Context,
    workload: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What to measure; may be given again. None lists them all.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="corm|full|generate", help="May be given again. Default: all three.")
    ] = None,
    prefill: Annotated[
        Literal["exact", "streaming"], typer.Option(help="How corm and full read prompts, as engine.prefill in a spec.")
    ] = "exact",
    weights: Forms = None,
    storage: Storages = None,
    propagation: Propagations = None,
    through: Through = "engine",
    replicas: Replicas = 1,
    documents: Annotated[int | None, typer.Option(min=1, help="Another number of documents.")] = None,
    max_kept: Annotated[int | None, typer.Option(min=1, help="Another bound on corm's entries a head.")] = None,
    device: Annotated[str, typer.Option(help="As model.device in a spec.")] = "auto",
    output: Annotated[str | None, typer.Option(metavar="FILE.json", help="Write the result, row by row.")] = None,
    time_limit: TimeLimit = None,
) -> None:
    """Measure corm, the full cache and transformers' generate, with random weights and prompts.

    Random weights have no sparse attention: corm caps every head at max_kept entries, which stands for the kept ratio
    of a trained model. What an engine cannot run is a row that says why.
    """
    from corm_batch.bench.workload import WORKLOADS, find_workload

    if not workload:
        others = context.command.params
        refuse_given(context, [one.name for one in others if one.name], "nothing is measured without --workload")
        _print_workloads(output_console(), list(WORKLOADS.values()))
        return
    if through == "engine":
        refuse_given(context, ["replicas"], "they are those of --through job, which is not given")
    found = [find_workload(name, documents, max_kept) for name in workload]
    engines, forms, storages = _engines(engine), _forms(weights), _storages(storage)
    leaving = _propagations(propagation)
    import torch

    from corm_batch.bench.bench import run_bench
    from corm_batch.engine.loader import find_device

    errors = error_console()

    def on_row(result: BenchResult) -> None:
        errors.print(_progress_text(result.rows[-1]), soft_wrap=True)
        if output is not None:
            _write(result, Path(output))

    command, measure_job = shlex.join(["corm-batch", *sys.argv[1:]]), _measure_job(through, replicas)
    where = torch.device(find_device(device))
    result = run_bench(
        found, engines, where, prefill, command, time_limit, forms, storages, leaving, on_row, measure_job
    )
    print_bench(output_console(), result)


def _measure_job(through: str, replicas: int) -> MeasureJob | None:
    """What measures a whole job; None for engines alone, which need no Ray."""
    if through == "engine":
        return None
    from corm_batch.pipeline.bench_job import measure_job

    return partial(measure_job, replicas=replicas)


def _refuse_unknown(option: str, names: list[str] | None, known: Sequence[str]) -> None:
    for name in names or ():
        if name not in known:
            raise SpecError(f"{option}: there is no {name!r}; known: {', '.join(known)}")


def _engines(names: list[str] | None) -> list[EngineName]:
    """The engines asked for, in the order in which they are always measured."""
    from corm_batch.bench.workload import ENGINES

    _refuse_unknown("--engine", names, ENGINES)
    return [name for name in ENGINES if not names or name in names]


def _forms(names: list[str] | None) -> list[WeightForm]:
    """The forms of weights asked for, in the order in which they are always measured."""
    from corm_batch.engine.config import WeightForm

    _refuse_unknown("--weights", names, get_args(WeightForm))
    return [name for name in get_args(WeightForm) if name in (names or ("stored",))]


def _storages(names: list[str] | None) -> list[str]:
    """The forms of storage asked for, each once, of those that need no more than a name; the model's own by default."""
    from corm_batch.storage.base import Storage

    _refuse_unknown("--storage", names, Storage.by_name_alone())
    return list(dict.fromkeys(names or ("model",)))


def _propagations(names: list[str] | None) -> list[str | None]:
    """The propagations asked for, none first."""
    from corm_batch.propagation.base import Propagation

    known = ["none", *Propagation.registered()]
    _refuse_unknown("--propagation", names, known)
    return [None if name == "none" else name for name in known if name in (names or ("none",))]


def _print_workloads(console: Console, workloads: Sequence[Workload]) -> None:
    columns = [label("workload"), *map(number, ("documents", "prompt", "output", "max_kept", "layers", "KV/document"))]
    rows = [
        (
            known.name, str(known.documents), str(known.prompt_tokens), str(known.output_tokens), str(known.max_kept),
            str(known.model.num_layers),
            bytes_text(known.kv_bytes_per_token * (known.prompt_tokens + known.output_tokens)),
        )
        for known in workloads
    ]  # fmt: skip
    print_table(console, "Workloads (--workload NAME; KV/document: uncompressed)", columns, rows)


def print_bench(console: Console, result: BenchResult) -> None:
    """A table a workload, the ceilings its limit was counted with, and what to know before believing it."""
    for workload in result.workloads.values():
        rows = [row for row in result.rows if row.workload == workload.name]
        cells = [row_cells(result, row) for row in rows]
        print_table(console, workload_title(workload, result), [label(HEADS[0]), *map(number, HEADS[1:])], cells)
        if jobs := [job_cells(row) for row in rows if row.job is not None]:
            columns = [label(JOB_HEADS[0]), *map(number, JOB_HEADS[1:])]
            print_table(console, f"{workload.name} through the whole job", columns, jobs)
        missing = [(row.name, row.reason) for row in rows if row.reason is not None]
        if missing:
            print_table(console, "Not measured", [label(""), prose("")], missing, heads=False)
    rates = [
        (name, *("-" if value is None else f"{value:.4g}" for value in ceilings.model_dump().values()))
        for name, ceilings in result.ceilings.items()
    ]
    heads = ("copy GB/s", "read GB/s", "matmul TFLOP/s", "our attention TFLOP/s", "sdpa TFLOP/s", "fp8 TFLOP/s")
    print_table(console, f"Ceilings of {result.device}", [label("workload"), *map(number, heads)], rates)
    console.print(result.note, soft_wrap=True)


def workload_title(workload: Workload, result: BenchResult) -> str:
    """`llama2-7b-4k: 376 documents of 4096 + 256 tokens, bfloat16, corm keeps at most 1024 a head, exact prefill`."""
    prefills = {row.prefill for row in result.rows if row.workload == workload.name and row.engine != "generate"}
    prefill = "".join(f", {name} prefill" for name in sorted(prefills))
    return (
        f"{workload.name}: {workload.documents} documents of {workload.prompt_tokens} + {workload.output_tokens} "
        f"tokens, {workload.dtype}, corm keeps at most {workload.max_kept} a head{prefill}"
    )


def row_cells(result: BenchResult, row: Row) -> tuple[str, ...]:
    """A row's text under `HEADS`; dashes where there are no figures."""
    figures = row.figures
    if figures is None:
        return (row.name, *["-"] * (len(HEADS) - 1))
    step, peak, ratio = figures.decode_ms_per_step, figures.peak_memory_bytes, result.corm_over(row)
    return (
        row.name,
        f"{figures.documents_per_hour:,.0f}",
        count_text(figures.prompt_tokens_per_s),
        count_text(figures.output_tokens_per_s),
        count_text(figures.prefill_tokens_per_s),
        "-" if step is None else f"{step:.1f}",
        str(figures.documents_in_flight),
        bytes_text(figures.kv_bytes_per_document),
        percent_text(figures.kept_ratio),
        "-" if peak is None else bytes_text(peak),
        percent_text(figures.limit_share),
        "-" if ratio is None or row.engine == "corm" else f"{ratio:.2f}x",
    )


def job_cells(row: Row) -> tuple[str, ...]:
    """A row's text under `JOB_HEADS`; its job was measured."""
    job = row.job
    assert job is not None
    rates = [
        text
        for rate in (job.documents_per_hour, job.steady_documents_per_hour)
        for text in ("-" if rate is None else f"{rate:,.0f}", _percent(row.of_engine(rate)))
    ]
    parts = job.start_s, job.load_s, job.first_answer_s, job.steady_s, job.wall_s
    return row.name, str(job.replicas), *rates, *map(seconds_text, parts)


def _percent(share: float | None) -> str:
    return "-" if share is None else percent_text(share)


def _progress_text(row: Row) -> str:
    outcome = row.reason if row.figures is None else f"{row.figures.documents_per_hour:,.0f} documents/h"
    return f"{row.workload} {row.name}: {outcome}"


def _write(result: BenchResult, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"--output {path}: cannot be written: {error.strerror}") from error
