"""What a report says in all, as rows of name and text: on the terminal and on the page alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from corm_batch.report.units import bytes_text, count_text, counted, one_line, percent_text, seconds_text

if TYPE_CHECKING:
    from corm_batch.report.comparison import Comparison
    from corm_batch.report.document_figures import DocumentFigures
    from corm_batch.report.job_report import JobReport

_POLICIES = 10


def totals_rows(figures: JobReport) -> list[tuple[str, str]]:
    """Documents, tokens, bytes and time in all."""
    kept, mass = figures.kept_ratio, figures.evicted_attention_mass
    left = len(figures.policies) - _POLICIES
    return [
        ("documents", f"{figures.ok:,} ok, {figures.failed:,} failed, written by {counted(figures.runs, 'run')}"),
        *(("policy", policy_text(policy)) for policy in figures.policies[:_POLICIES]),
        *([("policy", f"and {left} others")] if left > 0 else []),
        ("tokens", f"{count_text(figures.prompt_tokens)} read, {count_text(figures.output_tokens)} written"),
        ("throughput", throughput_text(figures)),
        ("KV bytes full -> peak", saved_text(figures.kv_bytes_full, figures.kv_bytes_peak)),
        ("kept ratio", f"mean {percent_text(kept.mean)}, p10 {percent_text(kept.p10)}, p90 {percent_text(kept.p90)}"),
        *(
            [("evicted attention", f"mean {percent_text(mass.mean)}, p90 {percent_text(mass.p90)} of the attention")]
            if mass is not None
            else []
        ),
        ("preemptions", f"{figures.preemptions:,}"),
        (
            "time of documents",
            f"queue {seconds_text(figures.queue_s)}, prefill {seconds_text(figures.prefill_s)}, "
            f"decode {seconds_text(figures.decode_s)}",
        ),
    ]


def shared_rows(comparison: Comparison) -> list[tuple[str, int]]:
    """How many documents are where, and how those in both compare."""
    return [
        ("only here", comparison.only_here),
        ("only there", comparison.only_there),
        ("in both", comparison.shared),
        *((f"in both: {verdict}", count) for verdict, count in comparison.verdicts.items()),
        ("in both: figures compared", comparison.answered),
    ]


def compared_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Two outputs side by side over the documents both answered, as (name, here, there)."""
    here, there = comparison.here, comparison.there
    return [
        ("KV bytes full", bytes_text(here.kv_bytes_full), bytes_text(there.kv_bytes_full)),
        ("KV bytes peak", bytes_text(here.kv_bytes_peak), bytes_text(there.kv_bytes_peak)),
        ("saved", percent_text(here.saved_ratio), percent_text(there.saved_ratio)),
        ("kept ratio, mean", percent_text(here.kept_ratio), percent_text(there.kept_ratio)),
        ("tokens read", count_text(here.prompt_tokens), count_text(there.prompt_tokens)),
        ("tokens written", count_text(here.output_tokens), count_text(there.output_tokens)),
        ("prefill", seconds_text(here.prefill_s), seconds_text(there.prefill_s)),
        ("decode", seconds_text(here.decode_s), seconds_text(there.decode_s)),
    ]


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


def outcome_text(document: DocumentFigures, width: int) -> str:
    """A document's answer, or why it has none, on one line of at most `width` characters."""
    if document.answer is not None:
        return one_line(document.answer, width)
    return one_line(f"{document.error_type}: {document.error_message}", width)
