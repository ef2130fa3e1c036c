"""`corm-batch report`: what the committed parts of an output say, drawn as tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from corm_batch.cli.console import (
    bytes_text,
    count_text,
    counted,
    excerpt,
    label,
    number,
    one_line,
    output_console,
    percent_text,
    print_json,
    print_table,
    prose,
    seconds_text,
)
from corm_batch.cli.options import AsJson
from corm_batch.errors import SpecError

if TYPE_CHECKING:
    from corm_batch.pipeline.report import JobReport

_BAR_WIDTH = 30


def report(
    output: Annotated[str, typer.Argument(help="The output.uri of a job: a folder, local or s3://.")],
    as_json: AsJson = False,
) -> None:
    """Show answers, memory, time and failures of a job from what it committed."""
    from corm_batch.data.uri import resolve_uri
    from corm_batch.pipeline.report import read_report

    try:
        uri = resolve_uri(output)
    except ValueError as error:
        raise SpecError(f"{output}: {error}") from error
    figures = read_report(uri)
    if figures is None:
        raise SpecError(f"{output}: nothing is committed there; expected the output.uri of a job")
    if as_json:
        print_json({**asdict(figures), "saved_ratio": figures.saved_ratio, "tokens_per_s": figures.tokens_per_s})
        return
    console = output_console()
    print_totals(console, output, figures)
    _print_layers(console, figures)
    print_failures(console, figures)
    _print_slowest(console, figures)


def print_totals(console: Console, title: str, figures: JobReport, more: Sequence[tuple[str, str]] = ()) -> None:
    """Documents, tokens, bytes and time in all, and `more` rows of name and value."""
    kept, mass = figures.kept_ratio, figures.evicted_attention_mass
    rows = [
        ("documents", f"{figures.ok} ok, {figures.failed} failed, written by {counted(figures.runs, 'run')}"),
        *(("policy", policy_text(policy)) for policy in figures.policies),
        ("tokens", f"{count_text(figures.prompt_tokens)} read, {count_text(figures.output_tokens)} written"),
        ("throughput", throughput_text(figures)),
        ("KV bytes full -> peak", saved_text(figures.kv_bytes_full, figures.kv_bytes_peak)),
        ("kept ratio", f"mean {percent_text(kept.mean)}, p10 {percent_text(kept.p10)}, p90 {percent_text(kept.p90)}"),
        ("evicted attention", f"mean {percent_text(mass.mean)}, p90 {percent_text(mass.p90)} of the attention"),
        ("preemptions", str(figures.preemptions)),
        (
            "time of documents",
            f"queue {seconds_text(figures.queue_s)}, prefill {seconds_text(figures.prefill_s)}, "
            f"decode {seconds_text(figures.decode_s)}",
        ),
    ]
    print_table(console, title, [label(""), prose("")], [*rows, *more], heads=False)


def _print_layers(console: Console, figures: JobReport) -> None:
    rows = [
        (str(layer), percent_text(kept), "#" * round(_BAR_WIDTH * min(1.0, kept)))
        for layer, kept in enumerate(figures.kept_per_layer)
    ]
    if rows:
        print_table(console, "Kept per layer", [number("layer"), number("kept"), label("")], rows)


def print_failures(console: Console, figures: JobReport) -> None:
    """Failed documents by error type, with examples; nothing when there are none."""
    rows = [
        (group.error_type, str(group.documents), one_line(doc_id, 40), one_line(message, 120))
        for group in figures.failures
        for doc_id, message in group.examples
    ]
    if rows:
        columns = [label("error type"), number("documents"), excerpt("for example"), prose("message")]
        print_table(console, "Failures", columns, rows)


def _print_slowest(console: Console, figures: JobReport) -> None:
    rows = [
        (
            one_line(slow.doc_id, 60),
            count_text(slow.prompt_tokens),
            count_text(slow.output_tokens),
            seconds_text(slow.queue_s),
            seconds_text(slow.prefill_s),
            seconds_text(slow.decode_s),
        )
        for slow in figures.slowest
    ]
    names = ["tokens read", "written", "queue", "prefill", "decode"]
    print_table(console, "Slowest documents", [excerpt("document"), *map(number, names)], rows)


def throughput_text(figures: JobReport) -> str:
    """`696 tokens/s, 386 documents/h, over 4m12s`."""
    run = figures.recorded
    if not run.seconds:
        return "- (no run came to its end)"
    hourly = count_text(3600 * run.documents / run.seconds)
    return f"{count_text(figures.tokens_per_s)} tokens/s, {hourly} documents/h, over {seconds_text(run.seconds)}"


def saved_text(full: int, peak: int) -> str:
    """Two sums of bytes and what lies between them: `1.6 GiB -> 477.5 MiB, 71.1% saved`."""
    return f"{bytes_text(full)} -> {bytes_text(peak)}, {percent_text(1 - peak / full if full else 0.0)} saved"


def policy_text(policy: str) -> str:
    """A policy's JSON as `corm window=64 recent=64`."""
    fields = json.loads(policy)
    settings = [f"{name}={value}" for name, value in fields.items() if name != "name" and value is not None]
    return " ".join([str(fields.get("name")), *settings])
