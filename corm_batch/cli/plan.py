"""`corm-batch plan`: what a job would read and what it would cost, without loading the model's weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from corm_batch.cli.broken_files import print_broken_files
from corm_batch.cli.console import label, number, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath
from corm_batch.report.units import bytes_text, count_text, counted, percent_text

if TYPE_CHECKING:
    from corm_batch.pipeline.plan import JobPlan
    from corm_batch.spec import JobSpec

_BAR_WIDTH = 30


def plan(spec: SpecPath, overrides: Overrides = None, plugins: Plugins = None, as_json: AsJson = False) -> None:
    """Show what a job would read, what its caches would cost and what fits at once; runs nothing."""
    from corm_batch.pipeline.plan import plan_job
    from corm_batch.spec import JobSpec

    job = JobSpec.load(spec, overrides or ())
    planned = plan_job(job)
    if as_json:
        print_json({"name": job.name, "output": job.output.uri, **asdict(planned)})
        return
    console = output_console()
    print_broken_files(console, [(file.uri, file.error) for file in planned.failed_files], planned.empty_files)
    _print_documents(console, job, planned)
    _print_histogram(console, planned)
    _print_memory(console, job, planned)


def _print_documents(console: Console, job: JobSpec, planned: JobPlan) -> None:
    documents = planned.measured if planned.documents is None else planned.documents
    rows = [
        (
            "reads",
            f"{counted(documents, 'document')} in {counted(planned.splits, 'split')} of "
            f"{counted(planned.files, job.source.name + ' file')}",
        ),
        ("writes", job.output.uri),
        ("answered before", f"{planned.done} ok, {planned.failed_before} failed; {planned.todo} to do"),
    ]
    if documents != planned.measured or planned.documents is None:
        rows.append(("looked at", f"{planned.measured} documents, for all figures but the first"))
    if planned.unusable:
        rows.append(("unusable", f"{planned.unusable} rows without text or id, each a failed row"))
    if planned.too_long:
        longer = f"about {counted(planned.too_long, 'document')} over {count_text(planned.max_model_len)} tokens"
        rows.append(("too long", f"{longer}; task.overflow: {job.task.overflow}"))
    unmeasured = "no tokenizer could be loaded" if planned.measured > planned.unusable else "no text could be read"
    origin = "by the model's tokenizer" if planned.chars_per_token_measured else f"assumed: {unmeasured}"
    rows.append(("characters a token", f"{planned.chars_per_token:.2f}, {origin}"))
    print_table(console, f"Job {job.name}", [label(""), prose("")], rows, heads=False)


def _print_histogram(console: Console, planned: JobPlan) -> None:
    if not planned.histogram:
        return
    most = max(documents for _, documents in planned.histogram)
    rows = [
        (count_text(tokens), str(documents), "#" * round(_BAR_WIDTH * documents / most))
        for tokens, documents in planned.histogram
    ]
    print_table(console, "Documents by tokens", [number("up to"), number("documents"), label("")], rows)


def _print_memory(console: Console, job: JobSpec, planned: JobPlan) -> None:
    from corm_batch.pipeline.plan import REFERENCE_POOL_BYTES

    tokens, size = planned.tokens, planned.kv_bytes
    rows = [
        ("tokens", count_text(tokens.p50), count_text(tokens.p99), count_text(tokens.max)),
        ("KV bytes, uncompressed", bytes_text(size.p50), bytes_text(size.p99), bytes_text(size.max)),
    ]
    per_token = f"{bytes_text(planned.kv_bytes_per_token)} of keys and values a token in {job.model.dtype}"
    print_table(console, f"One document ({per_token})", [label(""), *map(number, ("p50", "p99", "max"))], rows)
    fits = [(percent_text(ratio), str(documents)) for ratio, documents in planned.documents_at_once]
    pool = f"a pool of {bytes_text(planned.pool_bytes or REFERENCE_POOL_BYTES)}"
    if planned.pool_bytes is None:
        pool += ", for example (engine.kv_memory is not set: it is measured where the model is loaded)"
    title = f"Documents of mean size at once, at most {job.engine.max_sequences}, in {pool}"
    print_table(console, title, [number("kept"), number("documents")], fits)
