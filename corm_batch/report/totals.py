"""What a report says in all, as rows of name and text: on the terminal and on the page alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corm_batch.output.marks import Marks
from corm_batch.report.settings import NONE, values_of, values_text
from corm_batch.report.units import (
    bytes_text,
    count_text,
    counted,
    one_line,
    percent_text,
    savings_text,
    seconds_text,
)

if TYPE_CHECKING:
    from corm_batch.evaluation.expected import Missed, Scores
    from corm_batch.output.committed import JobSettings
    from corm_batch.report.comparison import Comparison
    from corm_batch.report.fields import FieldFigures
    from corm_batch.report.job_report import JobReport, Pace, Spread
    from corm_batch.report.listed_documents import DocumentFigures

_POLICIES, _FILES, _NAMES = 10, 10, 300
_PINS = "pin_first", "pin_instruction"


def totals_rows(figures: JobReport) -> list[tuple[str, str]]:
    """Documents, tokens, bytes and time in all."""
    kept, mass = figures.kept_ratio, figures.evicted_attention_mass
    left = len(figures.policies) - _POLICIES
    verifying = f", verification {seconds_text(figures.verify_s)}" if figures.verify_s else ""
    return [
        *job_rows(figures),
        ("documents", f"{figures.ok:,} ok, {figures.failed:,} failed, written by {counted(figures.runs, 'run')}"),
        *([("limited", f"the newest run, to {figures.selection}; others may be left")] if figures.selection else []),
        *warning_rows(figures),
        *verification_rows(figures),
        *(("policy", policy_text(policy)) for policy in figures.policies[:_POLICIES]),
        *([("policy", f"and {left} others")] if left > 0 else []),
        ("tokens", f"{count_text(figures.prompt_tokens)} read, {count_text(figures.output_tokens)} written"),
        ("throughput", throughput_text(figures)),
        *([("GPU time", gpu_text(figures.pace))] if figures.pace.gpu_s else []),
        ("KV bytes full -> peak", saved_text(figures.kv_bytes_full, figures.kv_bytes_peak)),
        ("kept ratio", spread_text(kept) if figures.ok else NONE),
        *(
            [("evicted attention", f"mean {percent_text(mass.mean)}, p90 {percent_text(mass.p90)} of the attention")]
            if mass is not None and figures.ok
            else []
        ),
        ("preemptions", f"{figures.preemptions:,}"),
        (
            "time of replicas",
            f"prefill {seconds_text(figures.prefill_s)}, decode {seconds_text(figures.decode_s)}{verifying}; "
            f"a document waits {seconds_text(figures.queue_s)} for room, mean",
        ),
    ]


def job_rows(figures: JobReport) -> list[tuple[str, str]]:
    """Which job asked which model what, and in what form entries were kept if not as the model computes them; nothing
    where the parts do not tell."""
    jobs: dict[str, int] = {}
    for job in figures.jobs:
        jobs[job.name] = jobs.get(job.name, 0) + job.documents
    forms = values_of(figures.jobs, "engine", "storage", "name")
    named = {
        "job": [(name, documents) for name, documents in jobs.items() if name != NONE],
        "model": values_of(figures.jobs, "model", "name"),
        "task": values_of(figures.jobs, "task", "name"),
        "tasks": _task_names(figures.jobs),
        "stored as": forms if any(name != "model" for name, _ in forms) else [],
    }
    return [(name, one_line(values_text(values), _NAMES)) for name, values in named.items() if values]


FIELD_HEADS = ("field or question", "documents", "answered", "not stated", "failed", "most often because")


def field_cells(field: FieldFigures) -> list[str]:
    """The texts under `FIELD_HEADS`."""
    answered = f"{field.answered:,} ({percent_text(field.fill_rate)})"
    name, reason = one_line(field.name, _NAMES), one_line(field.reason, _NAMES)
    return [name, f"{field.asked:,}", answered, f"{field.not_stated:,}", f"{field.failed:,}", reason or NONE]


def left_out_text(reasons: Sequence[tuple[str, int]]) -> str:
    """`3 rows (2: source.filter does not hold; 1: ...)`, of rows that are none of a source's documents."""
    return f"{counted(sum(n for _, n in reasons), 'row')} ({'; '.join(f'{count}: {why}' for why, count in reasons)})"


METRIC_NAMES = {"exact": "exact", "contains": "contains", "f1": "F1", "rouge_l": "ROUGE-L"}
"""The metrics of answers, as they are shown."""


def expected_rows(scores: Scores) -> list[tuple[str, str]]:
    """What the answers are worth against the right ones."""
    rows = [("answers", f"none to compare with {scores.column}")]
    if scores.cases:
        hits = [round(scores.means[name] * scores.cases) for name in ("exact", "contains")]
        means = ", ".join(f"{METRIC_NAMES[name]} {scores.means[name]:.3f}" for name in ("f1", "rouge_l"))
        cases, shares = f"{scores.cases:,}", [percent_text(count / scores.cases) for count in hits]
        rows = [
            (
                "answers",
                f"against {scores.column}: {hits[0]:,} of {cases} exact ({shares[0]}), {hits[1]:,} contain it "
                f"({shares[1]}), mean {means}",
            )
        ]
    if scores.no_row:
        rows.append(("", f"{counted(scores.no_row, 'document')} with a right answer {_has(scores.no_row)} no row here"))
    return rows


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def missed_heads(scores: Scores, *, several: bool) -> list[str]:
    """What stands over `missed_cells`; `several`: documents have more than one answer."""
    about = ["about"] if several else []
    return ["document", *about, "expected", "answered", METRIC_NAMES[scores.graded]]


def missed_cells(missed: Missed, *, several: bool, width: int) -> list[str]:
    """An answer that is not right, and what would be, each in so many characters."""
    about = [one_line(missed.about, width)] if several else []
    texts = [one_line(text, width) for text in (missed.expected, missed.answered)]
    return [one_line(missed.doc_id, width), *about, *texts, f"{missed.score:.3f}"]


def _task_names(jobs: Sequence[JobSettings]) -> list[tuple[str, int]]:
    """Of jobs of several tasks their names, each with what it is, and how many documents."""
    counts: dict[str, int] = {}
    for job in jobs:
        if isinstance(tasks := job.settings.get("tasks"), Mapping):
            named = ", ".join(f"{name} ({section.get('name', NONE)})" for name, section in tasks.items())
            counts[named] = counts.get(named, 0) + job.documents
    return list(counts.items())


def warning_rows(figures: JobReport) -> list[tuple[str, str]]:
    """What somebody who reads the answers ought to know; nothing where all is well."""
    rows = []
    if figures.cut_off:
        rows.append(
            ("cut off", f"{counted(figures.cut_off, 'document')} with an answer that task.max_new_tokens ended")
        )
    if figures.truncated:
        rows.append(("part read", f"{counted(figures.truncated, 'document')}: the rest did not fit the context"))
    if figures.looping:
        rows.append(("looping", f"{counted(figures.looping, 'answer')} repeating the same words over and over"))
    if figures.with_failed_fields:
        documents = counted(figures.with_failed_fields, "document")
        rows.append(("failed fields", f"{documents} with fields of no usable answer; the column failed_fields tells"))
    if figures.fallback:
        rows.append(("fallback", f"{counted(figures.fallback, 'document')} answered by it, without eviction"))
    rows += [("not read", one_line(f"{uri}: {error}", _NAMES)) for uri, error in figures.failed_files[:_FILES]]
    if (left := len(figures.failed_files) - _FILES) > 0:
        rows.append(("not read", f"and {counted(left, 'other file')}"))
    return rows


def verification_rows(figures: JobReport) -> list[tuple[str, str]]:
    """What is known of the answers from those that were verified; nothing where none was to be."""
    rows = [("verification", figures.verification)] if figures.verification else []
    if figures.logprob_loss is not None:
        more = "less" if figures.logprob_loss >= 0 else "more"
        loss = f"{abs(figures.logprob_loss):.3f} nats a token {more} likely to an uncompressed cache, mean"
        rows.append(("verified answers", loss))
    return rows


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
        ("saved", savings_text(here.saved_ratio), savings_text(there.saved_ratio)),
        ("kept ratio, mean", percent_text(here.kept_ratio), percent_text(there.kept_ratio)),
        ("tokens read", count_text(here.prompt_tokens), count_text(there.prompt_tokens)),
        ("tokens written", count_text(here.output_tokens), count_text(there.output_tokens)),
        ("prefill", seconds_text(here.prefill_s), seconds_text(there.prefill_s)),
        ("decode", seconds_text(here.decode_s), seconds_text(there.decode_s)),
    ]


def throughput_text(figures: JobReport) -> str:
    """`696 tokens/s, 386 documents/h, over 4m12s`."""
    pace = figures.pace
    if not pace.seconds:
        return "- (no run has left the record that it writes at its end)"
    hourly = count_text(3600 * pace.documents / pace.seconds)
    found = f"{count_text(figures.tokens_per_s)} tokens/s, {hourly} documents/h, over {seconds_text(pace.seconds)}"
    return f"{found}; {counted(pace.untimed, 'document')} of runs without a record left out" if pace.untimed else found


def gpu_text(pace: Pace) -> str:
    """`1.25 GPU hours, 310 documents an hour of a GPU, cost 3.13`, that of 1,000 documents beside it."""
    hours = pace.gpu_s / 3600
    rate = pace.documents / hours
    said = f"{hours:,.3g} GPU hours, {count_text(rate) if rate >= 10 else f'{rate:.2g}'} documents an hour of a GPU"
    if pace.cost is None:
        return said
    return f"{said}, cost {pace.cost:,.2f}, of 1,000 documents {1000 * pace.cost / max(1, pace.documents):,.2f}"


def spread_text(spread: Spread) -> str:
    """`mean 31.2%, p10 20.0%, p90 41.8%`."""
    return f"mean {percent_text(spread.mean)}, p10 {percent_text(spread.p10)}, p90 {percent_text(spread.p90)}"


def saved_text(full: int, peak: int) -> str:
    """Two sums of bytes and what lies between them: `1.6 GiB -> 477.5 MiB, 71.1% saved`; a dash for no bytes."""
    if not full:
        return NONE
    why = " (pages are held whole)" if peak > full else ""
    return f"{bytes_text(full)} -> {bytes_text(peak)}, {savings_text(1 - peak / full)} saved{why}"


def policy_text(policy: str) -> str:
    """A policy's JSON as `corm window=64 recent=64 budget=(adakv max_kept=512)`."""
    return _plugin_text(json.loads(policy))


def _plugin_text(fields: Mapping[str, Any]) -> str:
    """A name and the settings under it, those of a plug-in inside it in brackets; pins where there are any."""
    shown = {
        name: f"({_plugin_text(value)})" if isinstance(value, dict) else value
        for name, value in fields.items()
        if name != "name" and value is not None and (value or name not in _PINS)
    }
    return " ".join([str(fields.get("name")), *(f"{name}={value}" for name, value in shown.items())])


def outcome_text(document: DocumentFigures, width: int) -> str:
    """A document's answer, or why it has none, on one line of at most `width` characters."""
    if document.error_type is None:
        return one_line(document.answer or "", width)
    return one_line(f"{document.error_type}: {document.error_message}", width)


def status_text(row: Mapping[str, Any]) -> str:
    """`ok`, `failed`, or what somebody who reads the answer ought to know: `cut off, failed fields`."""
    if row["status"] != "ok":
        return "failed"
    marks = Marks.of(row)
    said = {
        "looping": marks.looping,
        "cut off": marks.cut_off and not marks.looping,  # where a loop ends anyway
        "part read": marks.truncated,
        "failed fields": marks.with_failed_fields,
        "answered again": marks.rerun,
        "full cache differs": marks.differing and not marks.rerun,
        "not verified": marks.unverified,
    }
    return ", ".join(text for text, holds in said.items() if holds) or "ok"


def answer_text(row: Mapping[str, Any]) -> str:
    """The answer; of a failed document the reason, and what the model wrote all the same."""
    if row["status"] == "ok":
        return str(row["output"] or "")
    reason = f"{row['error_type']}: {row['error_message']}"
    return f"{reason} | {row['output']}" if row["output"] else reason
