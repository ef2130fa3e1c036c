"""The charts of a report: which figure goes on which axis, and what is said under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corm_batch.report.page.svg import Axis, Chart, linear_axis, log_axis, up_to
from corm_batch.report.units import bytes_text, counted, one_line, percent_text, savings_text, seconds_text

if TYPE_CHECKING:
    from corm_batch.report.comparison import DocumentPair
    from corm_batch.report.job_details import Bin, Interval, LengthBand, SizeGroup, Throughput
    from corm_batch.report.job_report import Spread
    from corm_batch.report.listed_documents import DocumentFigures

_TIP_ID, _NOTE_ID = 60, 30
_FEW = 3  # documents of which each is named where it is drawn
_ROOM = 1.15  # above and beside the largest value, so that it does not lie in the corner
_WIDE = 30  # lengths of which the longest is this many times the shortest get an axis of factors
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNTS = ((1e9, " (billions)"), (1e6, " (millions)"), (1e3, " (thousands)"))
_TIMES = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"), (86_400.0, "days"))


@dataclass(frozen=True)
class Figure:
    """A chart with its title, what its colours mean as (kind, text), and what it shows in words."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    caption: str


def memory_figures(groups: Sequence[SizeGroup], bins: Sequence[Bin]) -> list[Figure]:
    """Bytes by document and, of more than a few documents, how many saved how much; nothing without documents."""
    if not groups:
        return []
    documents = sum(group.documents for group in groups)
    return [sizes_figure(groups), *([savings_figure(bins)] if documents > _FEW else [])]


def sizes_figure(groups: Sequence[SizeGroup]) -> Figure:
    """Bytes full and peak, document by document, largest first."""
    documents = sum(group.documents for group in groups)
    x = linear_axis("documents, largest first", 0, documents, whole=True)
    high = max(max(group.kv_bytes_full, group.kv_bytes_peak) for group in groups)
    y = _bytes_axis("KV bytes of a document", high * _ROOM if documents <= _FEW else high)
    title = "KV bytes of each document, uncompressed and at most held"
    chart = Chart(title, x, y)
    start = 0
    for group in groups:
        span = (start, start + group.documents)
        who = f"mean of {group.documents:,} documents" if group.doc_id is None else one_line(group.doc_id, _TIP_ID)
        full, peak = bytes_text(round(group.kv_bytes_full)), bytes_text(round(group.kv_bytes_peak))
        saved = savings_text(1 - group.kv_bytes_peak / group.kv_bytes_full)
        tip = f"{who}: {full} -> {peak}, {saved} saved"
        chart.bar(span, (0, group.kv_bytes_full), "full", tip, gap=0.2)
        chart.bar(span, (0, group.kv_bytes_peak), "peak", tip, gap=0.2)
        if documents <= _FEW:
            top = max(group.kv_bytes_full, group.kv_bytes_peak)
            chart.note(start + 0.5, top, f"{one_line(group.doc_id or '', _NOTE_ID)}: {saved} saved", centred=True)
        start = span[1]
    if len(groups) == documents:
        caption = f"One bar for each of {counted(documents, 'document')}."
    else:
        caption = f"{documents:,} documents in {len(groups)} groups of neighbouring size; each bar is a group's mean."
    legend = (("full", "uncompressed"), ("peak", "peak, pages really held"))
    return Figure("Full and peak, by document", chart.markup(), legend, caption)


def savings_figure(bins: Sequence[Bin]) -> Figure:
    """How many documents saved how much."""
    x = linear_axis("KV bytes saved", bins[0].low, bins[-1].high, unit=0.01, suffix="%", whole=True, marks=10)
    y = linear_axis("documents", 0, up_to(max(part.documents for part in bins)), whole=True)
    chart = Chart("Documents by the share of KV bytes saved", x, y, height=240)
    for part in bins:
        low, high = round(100 * part.low), round(100 * part.high)
        tip = f"{low}% to {high}%: {counted(part.documents, 'document')}"
        chart.bar((part.low, part.high), (0, part.documents), "peak", tip, gap=0.08)
    step = f"in steps of {bins[0].high - bins[0].low:.0%}"
    caption = f"{counted(sum(part.documents for part in bins), 'document')} in all, {step}."
    if bins[0].low < 0:
        caption += " Below zero, pages took more than an uncompressed cache would; below -100% counts as -100%."
    return Figure("Documents by what they saved", chart.markup(), (), caption)


def layers_figure(layers: Sequence[Spread]) -> Figure:
    """Kept entries by layer, with their spread over the documents."""
    x = linear_axis("layer", -0.5, len(layers) - 0.5, whole=True, marks=16)
    y = _percent_axis("entries kept", max(max(layer.mean, layer.p90) for layer in layers))
    chart = Chart("Share of entries kept in each layer", x, y)
    for number, layer in enumerate(layers):
        spread = f"p10 {percent_text(layer.p10)}, p90 {percent_text(layer.p90)}"
        tip = f"layer {number}: {percent_text(layer.mean)} kept, {spread}"
        chart.bar((number - 0.5, number + 0.5), (0, layer.mean), "peak", tip, gap=0.3)
        chart.line([(number, layer.p10), (number, layer.p90)], "whisker", tip)
    legend = (("peak", "kept, over all entries of all documents"), ("whisker", "p10 to p90 of the documents"))
    caption = "Entries stored at the end over those of an uncompressed cache."
    return Figure("Kept by layer", chart.markup(), legend, caption)


def lengths_figure(documents: Sequence[DocumentFigures], bands: Sequence[LengthBand], measured: int) -> Figure:
    """Kept ratio against length, a dot a document."""
    points = [(float(max(1, d.prompt_tokens or 0)), d.kept_ratio or 0.0, d.doc_id) for d in documents]
    lengths = [tokens for tokens, _, _ in points]
    x = _length_axis("tokens read", min(lengths), max(lengths) * _ROOM)
    y = _percent_axis("entries kept", max(kept for _, kept, _ in points) * _ROOM)
    chart = Chart("Entries kept against the length of the document", x, y, height=320)
    if bands:
        chart.band([(max(1, b.tokens), b.p10, b.p90) for b in bands], "spread", "p10 to p90")
    for tokens, kept, doc_id in points:
        tip = f"{one_line(doc_id, _TIP_ID)}: {tokens:,.0f} tokens, {percent_text(kept)} kept"
        chart.dot(tokens, kept, "dot", tip)
        if len(points) <= _FEW:
            chart.note(tokens, kept, f"{one_line(doc_id, _NOTE_ID)}: {tokens:,.0f} tokens, {percent_text(kept)} kept")
    legend: tuple[tuple[str, str], ...] = (("dot", "one document"),)
    caption = shown_text(len(documents), measured, "evenly spread over their lengths")
    if bands:
        chart.line([(max(1, b.tokens), b.p50) for b in bands], "median", "median")
        legend += (("median", "median"), ("spread", "p10 to p90"))
        caption += f" Median and percentiles are over all {measured:,}, in {len(bands)} groups of equal count."
    return Figure("Entries kept and tokens read, by document", chart.markup(), legend, caption)


def throughput_figures(found: Throughput) -> tuple[Figure, Figure]:
    """Documents and tokens a minute over the running time."""
    caption = "A document counts where its part was committed; the start of the replicas is part of a run's time."
    if len(found.run_starts_s) > 1:
        caption += f" {len(found.run_starts_s)} runs end to end, each from its dashed line; pauses are left out."
    if found.left_out:
        caption += f" {counted(found.left_out, 'document')} of which no time is known are left out."
    documents = _rate_chart(found, "documents a minute", [part.documents_per_min for part in found.intervals])
    tokens = _rate_chart(found, "tokens a minute", [part.tokens_per_min for part in found.intervals])
    return (
        Figure("Documents a minute", documents, (), "Answered and failed documents."),
        Figure("Tokens a minute", tokens, (), f"Tokens read and written. {caption}"),
    )


def _rate_chart(found: Throughput, label: str, rates: Sequence[float]) -> str:
    x = _time_axis("running time", found.intervals[-1].end_s)
    y = _count_axis(label, max(rates))
    chart = Chart(f"{label} over the running time", x, y, height=220)
    for part, rate in zip(found.intervals, rates, strict=True):
        chart.bar((part.start_s, part.end_s), (0, rate), "peak", f"{_span_text(part)}: {rate:,.4g} {label}")
    for start in found.run_starts_s[1:]:
        chart.line([(start, 0), (start, y.high)], "divider", "a run begins")
    return chart.markup()


def comparison_figure(pairs: Sequence[DocumentPair], answered: int) -> Figure:
    """Peak bytes of each document here against there."""
    points = [(float(p.there.kv_bytes_peak or 0), float(p.here.kv_bytes_peak or 0), p.here.doc_id) for p in pairs]
    high = max(max(there, here) for there, here, _ in points) * _ROOM
    x, y = _bytes_axis("peak KV bytes there", high), _bytes_axis("peak KV bytes here", high)
    chart = Chart("Peak KV bytes of each document here against there", x, y, height=380)
    chart.line([(0, 0), (x.high, y.high)], "divider", "the same here and there")
    for there, here, doc_id in points:
        tip = f"{one_line(doc_id, _TIP_ID)}: {bytes_text(int(here))} here, {bytes_text(int(there))} there"
        chart.dot(there, here, "dot", tip)
        if len(points) <= _FEW:
            chart.note(there, here, tip)
    legend = (("dot", "one document"), ("divider", "the same here and there"))
    caption = "Below the line a document takes less here. " + shown_text(
        len(pairs), answered, "evenly spread by length"
    )
    return Figure("Peak bytes here and there", chart.markup(), legend, caption)


def shown_text(shown: int, total: int, how: str) -> str:
    """Which documents are shown when not all are: `1,000 of 100,000 documents are shown, <how>.`"""
    if shown == total:
        return f"All {total:,} documents are shown." if total != 1 else "The one document is shown."
    return f"{shown:,} of {total:,} documents are shown, {how}."


def _span_text(part: Interval) -> str:
    return f"{seconds_text(part.start_s)} to {seconds_text(part.end_s)}"


def _percent_axis(label: str, high: float) -> Axis:
    return linear_axis(label, 0, up_to(high, 0.01), unit=0.01, suffix="%")


def _count_axis(label: str, high: float) -> Axis:
    unit, name = next(((unit, name) for unit, name in _COUNTS if high >= 10 * unit), (1.0, ""))
    return linear_axis(f"{label}{name}", 0, up_to(high, unit), unit=unit)


def _bytes_axis(label: str, high: float) -> Axis:
    power = min(max(int(high).bit_length() - 1, 0) // 10, len(_BYTES) - 1)
    unit = 1024.0**power
    return linear_axis(f"{label} ({_BYTES[power]})", 0, up_to(high, unit), unit=unit)


def _length_axis(label: str, low: float, high: float) -> Axis:
    if high > _WIDE * low:
        return log_axis(label, low, high)
    return linear_axis(label, 0, up_to(high, marks=8), marks=8)


def _time_axis(label: str, seconds: float) -> Axis:
    unit, name = next(((unit, name) for unit, name in reversed(_TIMES) if seconds >= 2 * unit), _TIMES[0])
    return linear_axis(f"{label} ({name})", 0, seconds, unit=unit, marks=10)
