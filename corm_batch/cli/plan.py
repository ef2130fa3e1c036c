"""`corm-batch plan`: what a job would read and what it would cost, without loading the model's weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from corm_batch.cli.broken_files import print_broken_files
from corm_batch.cli.console import error_console, label, number, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath
from corm_batch.exit_codes import ExitCode
from corm_batch.report.totals import left_out_text, policy_text
from corm_batch.report.units import bytes_text, count_text, counted, one_line, percent_text, seconds_text, whole_text

if TYPE_CHECKING:
    from corm_batch.audit.config import VerifyConfig
    from corm_batch.bench.gpus import GpuEstimate
    from corm_batch.output.run_records import EarlierRuns
    from corm_batch.pipeline.plan import JobPlan
    from corm_batch.spec import JobSpec

_BAR_WIDTH = 30
_REFUSALS = 5


def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    plugins: Plugins = None,
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="Print the first prompt, whole.")] = False,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Say what fits on such a card and how long it takes: h100, l40s.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a job would read, what its caches would cost and what fits at once; runs nothing.

    Exit codes: 0 a run would start, 2 the spec, its model or an argument is wrong.
    """
    from corm_batch.pipeline.model import refusal_of
    from corm_batch.pipeline.plan import plan_job
    from corm_batch.pipeline.question import about_question
    from corm_batch.spec import JobSpec

    job = JobSpec.load(spec, overrides or ())
    planned, refusal = plan_job(job, gpu), refusal_of(job)
    if as_json:
        found = {
            "name": job.name,
            "refusal": refusal,
            "output": job.output.uri,
            "about": list(about_question(job)),
            **asdict(planned),
        }
        found["output_tokens_at_most"] = planned.prompts * job.task.max_new_tokens
        if planned.gpu is not None:
            found["gpu"]["gpu_hours"] = [row.hours and row.hours * _gpus_of(job) for row in planned.gpu.rows]
            found["gpu"]["price_per_gpu_hour"] = job.cluster.price_per_gpu_hour
        if not show_prompt:
            del found["first_prompt"]
        print_json(found)
        raise typer.Exit(ExitCode.WRONG_SPEC if refusal else ExitCode.OK)
    console = output_console()
    print_broken_files(console, [(file.uri, file.error) for file in planned.failed_files], planned.empty_files)
    _print_documents(console, job, planned, about_question(job))
    _print_histogram(console, planned)
    _print_memory(console, job, planned)
    if planned.gpu is not None:
        _print_gpu(console, job, planned, planned.gpu)
    if show_prompt:
        console.print("First prompt, as the model sees it", style="bold")
        console.print(whole_text(planned.first_prompt or "(no document can be asked about)"), soft_wrap=True)
    if refusal is not None:
        error_console().print(f"corm-batch: a run would not start: {refusal}", soft_wrap=True)
        raise typer.Exit(ExitCode.WRONG_SPEC)


def _print_documents(console: Console, job: JobSpec, planned: JobPlan, about: Iterable[str]) -> None:
    documents = planned.measured if planned.documents is None else planned.documents
    every = planned.measured + sum(count for _, count in planned.left_out)
    rows = [
        (
            "reads",
            f"{counted(documents, 'document')} in "
            f"{'' if planned.splits == planned.files else counted(planned.splits, 'split') + ' of '}"
            f"{counted(planned.files, job.source.to_spec()['name'].removesuffix('s') + ' file')}",
        ),
        ("from", job.source.place),
        ("model", job.model.name),
        ("writes", job.output.uri),
        ("answered before", f"{planned.done} ok, {planned.failed_before} failed; {planned.todo} to do"),
    ]
    rows += [("in the output", line) for line in planned.earlier]
    rows.append(("policy", policy_text(json.dumps(job.policy.to_spec()))))
    rows += [("", line) for line in about]
    rows.append(("prompts", _prompts_text(planned)))
    rows.append(("", _written_text(job, planned)))
    if planned.from_answers:
        rows.append(("", "of long documents also answers are read, here taken to be as long as they may"))
    if planned.earlier_runs is not None:
        rows.append(("measured", _measured_text(planned.earlier_runs, planned)))
    if job.verify is not None:
        rows.append(("verifies", _verifies_text(job.verify, planned)))
    if job.fallback is not None:
        rows.append(("falls back", "what has no usable answer is asked again without eviction, not counted here"))
    if documents != every or planned.documents is None:
        rows.append(("looked at", f"{counted(planned.measured, 'document')}, for all figures but the first"))
    if planned.left_out:
        rows.append(("left out", f"{left_out_text(planned.left_out)} of those looked at"))
    if planned.unusable:
        rows.append(("unusable", f"{counted(planned.unusable, 'row')}, each a failed row"))
    for refusal in planned.refused[:_REFUSALS]:
        first = f"{counted(refusal.documents, 'document')}, first {one_line(refusal.doc_id, 80)}"
        where = f" in {refusal.origin}" if refusal.origin not in ("", refusal.doc_id) else ""
        rows.append(("would fail", f"{first}{where}: {one_line(refusal.reason, 300)}"))
    if (more := len(planned.refused) - _REFUSALS) > 0:
        rows.append(("would fail", f"others, for {counted(more, 'other reason')}, which --json shows"))
    if planned.too_long:
        overflow = ", ".join(dict.fromkeys(part.overflow for part in job.task.parts))
        longer = f"about {counted(planned.too_long, 'document')} over {count_text(planned.max_model_len)} tokens"
        rows.append(("too long", f"{longer}; task.overflow: {overflow}"))
    print_table(console, f"Job {job.name}", [label(""), prose("")], rows, heads=False)


def _prompts_text(planned: JobPlan) -> str:
    """How many prompts and tokens the run would read, and how that is known."""
    prompts, tokens = counted(planned.prompts, "prompt"), count_text(planned.prompt_tokens)
    if planned.exact:
        return f"{prompts} of {planned.prompt_tokens:,} tokens to read, instruction and template included"
    if planned.tokenized:
        return (
            f"about {prompts} of {tokens} tokens to read, instruction and template included; estimated from those of "
            f"{counted(planned.tokenized, 'document')}"
        )
    return f"about {tokens} tokens of text alone, at 4 characters each: no tokenizer could be loaded"


def _written_text(job: JobSpec, planned: JobPlan) -> str:
    """How many tokens the run would write."""
    longest = job.task.max_new_tokens
    by_row = any("max_new_tokens" in part.row_values for part in job.task.parts)
    most = f"{longest} an answer at most{', where its row says nothing else' if by_row else ''}"
    return f"up to {count_text(planned.prompts * longest)} tokens to write, {most}"


def _measured_text(runs: EarlierRuns, planned: JobPlan) -> str:
    """What earlier runs made of their documents, and what that means for those to do."""
    text = (
        f"{counted(runs.runs, 'earlier run')} of this model here: {count_text(runs.tokens_per_s)} tokens/s, "
        f"{count_text(runs.documents_per_h)} documents/h"
    )
    if not planned.prompt_tokens:
        return text
    return f"{text}; at that pace {seconds_text(runs.seconds_for(planned.prompt_tokens))} for what is to do"


def _verifies_text(verify: VerifyConfig, planned: JobPlan) -> str:
    """What verification would cost."""
    text = (
        f"about {100 * verify.share:g} % of the documents, each prompt with its answer in one exact pass of its own: "
        f"{count_text(planned.verify_tokens)} tokens besides; gaps up to {verify.min_gap:g} nats are ties"
    )
    return f"{text}; what differs is answered again without eviction" if verify.on_difference == "rerun" else text


def _print_gpu(console: Console, job: JobSpec, planned: JobPlan, found: GpuEstimate) -> None:
    cards, replicas = job.engine.tensor_parallel, job.cluster.min_replicas
    title = f"On {counted(replicas, 'replica')} of {cards} {found.name}"
    if found.pool_bytes <= 0:
        console.print(f"{title}: {bytes_text(found.weight_bytes)} of weights do not fit\n", soft_wrap=True)
        return
    title += f": {bytes_text(found.weight_bytes)} of weights, a pool of {bytes_text(found.pool_bytes)}"
    rows = [
        (
            percent_text(row.kept_ratio),
            str(row.documents_at_once),
            "does not fit" if row.hours is None else seconds_text(3600 * row.hours),
            *_costs(job, planned, row.hours),
        )
        for row in found.rows
    ]
    heads = ["kept", "documents at once", "time", "documents per GPU hour"]
    heads += ["cost"] if job.cluster.price_per_gpu_hour is not None else []
    print_table(console, title, list(map(number, heads)), rows)
    behind = ""
    if found.behind_hours:
        behind = (
            f" What {job.policy.name} has read behind every prompt, while its cache is full, is in them with "
            f"{seconds_text(3600 * found.behind_hours)}; what it computes of that is not."
        )
    console.print(
        f"Estimated: {percent_text(found.limit_share)} of the physical limit, as {job.engine.prefill} prefill reached "
        "on an H200, at what a card reaches of its data sheet; every answer as long as it may be "
        f"({job.task.max_new_tokens} tokens), loading not counted.{behind}{_verification_text(job, found)}\n",
        soft_wrap=True,
    )


def _costs(job: JobSpec, planned: JobPlan, hours: float | None) -> list[str]:
    """Documents to do by the GPU hours of a run of so many hours, and what these cost, where a price is known."""
    every = planned.measured + sum(count for _, count in planned.left_out)
    price, gpu_hours = job.cluster.price_per_gpu_hour, (hours or 0.0) * _gpus_of(job)
    documents = planned.todo * (planned.documents or every) / max(1, every)
    costs = [] if price is None else [f"{gpu_hours * price:,.2f}" if gpu_hours else "-"]
    return [count_text(documents / gpu_hours) if gpu_hours else "-", *costs]


def _gpus_of(job: JobSpec) -> float:
    """Cards that a job holds at once, at least; a share of one is taken for that share of its speed."""
    return max(job.engine.tensor_parallel, job.cluster.gpus_per_replica or 0) * job.cluster.min_replicas


def _verification_text(job: JobSpec, found: GpuEstimate) -> str:
    """What of the times is verification, and what one answer again would add; empty where nothing is verified."""
    if job.verify is None or not found.verify_hours:
        return ""
    text = f" Verification is in them with {seconds_text(3600 * found.verify_hours)}"
    if job.verify.on_difference == "flag":
        return f"{text}."
    if found.rerun_s is None:
        return f"{text}; one prompt without eviction does not fit, so what differs cannot be answered again."
    return f"{text}; every prompt that is answered again without eviction adds {seconds_text(found.rerun_s)}."


def _print_histogram(console: Console, planned: JobPlan) -> None:
    if not planned.histogram:
        return
    most = max(documents for _, documents in planned.histogram)
    rows = [
        (count_text(tokens), str(documents), "#" * round(_BAR_WIDTH * documents / most))
        for tokens, documents in planned.histogram
    ]
    print_table(console, "Documents by prompt tokens", [number("up to"), number("documents"), label("")], rows)


def _print_memory(console: Console, job: JobSpec, planned: JobPlan) -> None:
    from corm_batch.pipeline.plan import REFERENCE_POOL_BYTES

    tokens, size = planned.tokens, planned.kv_bytes
    rows = [
        ("prompt tokens", count_text(tokens.p50), count_text(tokens.p99), count_text(tokens.max)),
        ("KV bytes, uncompressed", bytes_text(size.p50), bytes_text(size.p99), bytes_text(size.max)),
    ]
    per_token = (
        f"{bytes_text(planned.kv_bytes_per_token)} of keys and values a token in {job.model.dtype}, "
        f"{bytes_text(planned.page_bytes_per_token)} of pages in engine.storage {planned.storage}"
    )
    print_table(console, f"One document ({per_token})", [label(""), *map(number, ("p50", "p99", "max"))], rows)
    fits = [(percent_text(ratio), str(documents)) for ratio, documents in planned.documents_at_once]
    pool = f"a pool of {bytes_text(planned.pool_bytes or REFERENCE_POOL_BYTES)}"
    if planned.pool_bytes is None:
        pool += ", for example (engine.kv_memory is not set: it is measured where the model is loaded)"
    title = f"Documents of mean size at once, at most {job.engine.max_sequences}, in {pool}"
    print_table(console, title, [number("kept"), number("documents")], fits)
