"""JobDetails: what a page shows of a job beside its totals, bounded in size whatever the number of documents.

Spreads and counts are over all documents; where single documents are listed, at most `MAX_DOCUMENTS` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.output.committed import Commit, Committed
from corm_batch.report.job_report import SlowDocument, Spread, layer_entries, slowest_documents
from corm_batch.report.listed_documents import DocumentFigures, by_length, document_figures, evenly, measured
from corm_batch.report.verified_documents import VerifiedDocument, worth_a_look

MAX_DOCUMENTS = 1000
_GROUPS, _BANDS, _BAND_DOCUMENTS, _INTERVALS = 64, 20, 20, 120
_SLOWEST = 20
_STEPS, _BINS = (0.01, 0.02, 0.05, 0.1), 24  # of saved ratios: the finest step with no more bins


@dataclass(frozen=True)
class SizeGroup:
    """Documents of about one size: how many, and the mean of their bytes; `doc_id` where it is one document."""

    documents: int
    kv_bytes_full: float
    kv_bytes_peak: float
    doc_id: str | None


@dataclass(frozen=True)
class Bin:
    """Documents whose figure lies from `low` to below `high`."""

    low: float
    high: float
    documents: int


@dataclass(frozen=True)
class LengthBand:
    """Documents of neighbouring lengths: their median length in tokens, and how their kept ratio spreads."""

    tokens: float
    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class Interval:
    """A stretch of running time in seconds, and what was committed in it, a minute."""

    start_s: float
    end_s: float
    documents_per_min: float
    tokens_per_min: float


@dataclass(frozen=True)
class Throughput:
    """Intervals of all runs laid end to end, pauses between runs left out.

    Attributes:
        intervals: first to last.
        run_starts_s: where each run begins on that axis.
        left_out: documents of parts between which and the one before no time is known.
    """

    intervals: tuple[Interval, ...]
    run_starts_s: tuple[float, ...]
    left_out: int


@dataclass(frozen=True)
class JobDetails:
    """What a page shows beside the totals.

    Attributes:
        committed_at: when the newest part was written, UTC.
        measured: answered documents that have memory figures; they are what memory figures are about.
        documents: at most `MAX_DOCUMENTS` of them, evenly spread over their lengths, shortest first.
        sizes: all of them, largest first, in groups of equal count.
        savings: their saved ratios, counted in even steps; below -100 % counts as -100 %.
        layers: kept entries of each layer over those of an uncompressed one, by document; empty when the rows come
            from models of different depth.
        lengths: how the kept ratio goes with length; empty when there are too few documents to say.
        throughput: over time.
        slowest: the documents that took longest, longest first.
        differing: those that an uncompressed cache would have answered otherwise, or that could not be verified, at
            most `MAX_DOCUMENTS`.
    """

    committed_at: datetime
    measured: int
    documents: tuple[DocumentFigures, ...]
    sizes: tuple[SizeGroup, ...]
    savings: tuple[Bin, ...]
    layers: tuple[Spread, ...]
    lengths: tuple[LengthBand, ...]
    throughput: Throughput
    slowest: tuple[SlowDocument, ...]
    differing: tuple[VerifiedDocument, ...]


def build_details(committed: Committed) -> JobDetails:
    """The details of what is committed at an output."""
    ok = committed.rows.filter(pc.equal(committed.rows["status"], "ok"))
    ordered = by_length(ok.drop_columns(["kept_per_layer"]))  # which is most of a row, and nothing here sorts it
    return JobDetails(
        committed_at=max(commit.at for commit in committed.commits),
        measured=ordered.num_rows,
        documents=document_figures(evenly(ordered, MAX_DOCUMENTS)),
        sizes=_sizes(ordered),
        savings=_savings(ordered),
        layers=_layers(ok.filter(measured(ok))),
        lengths=_lengths(ordered),
        throughput=_throughput(committed.commits),
        slowest=slowest_documents(ok, _SLOWEST),
        differing=worth_a_look(committed.rows, MAX_DOCUMENTS),
    )


def _sizes(rows: pa.Table) -> tuple[SizeGroup, ...]:
    rows = rows.select(["kv_bytes_full", "kv_bytes_peak", "doc_id"])
    rows = rows.sort_by([("kv_bytes_full", "descending"), ("doc_id", "ascending")])
    full, peak = rows["kv_bytes_full"].to_numpy(), rows["kv_bytes_peak"].to_numpy()
    groups = np.array_split(np.arange(rows.num_rows), min(_GROUPS, rows.num_rows)) if rows.num_rows else []
    return tuple(
        SizeGroup(
            documents=len(group),
            kv_bytes_full=float(full[group].mean()),
            kv_bytes_peak=float(peak[group].mean()),
            doc_id=rows["doc_id"][int(group[0])].as_py() if len(group) == 1 else None,
        )
        for group in groups
    )


def _savings(rows: pa.Table) -> tuple[Bin, ...]:
    if not rows.num_rows:
        return ()
    saved = np.maximum(1 - rows["kv_bytes_peak"].to_numpy() / rows["kv_bytes_full"].to_numpy(), -1.0)
    step = next((step for step in _STEPS if np.ptp(saved) <= _BINS * step), _STEPS[-1])
    places = np.floor(saved / step + 1e-9).astype(np.int64)
    first = int(places.min())
    counts = enumerate(np.bincount(places - first).tolist(), first)
    return tuple(Bin(step * place, step * (place + 1), count) for place, count in counts)


def _layers(rows: pa.Table) -> tuple[Spread, ...]:
    kept, full = layer_entries(rows)
    if not kept.size:
        return ()
    means = kept.sum(axis=0) / full.sum()
    spreads = (np.quantile(layer / full, [0.1, 0.9]) for layer in kept.T)  # one layer at a time, for the memory's sake
    return tuple(Spread(*map(float, (mean, *spread))) for mean, spread in zip(means, spreads, strict=True))


def _lengths(rows: pa.Table) -> tuple[LengthBand, ...]:
    """Equal counts of documents, shortest first."""
    bands = min(_BANDS, rows.num_rows // _BAND_DOCUMENTS)
    if bands < 2:
        return ()
    tokens, kept = rows["prompt_tokens"].to_numpy(), rows["kept_ratio"].to_numpy()
    return tuple(
        LengthBand(float(np.median(tokens[group])), *map(float, np.quantile(kept[group], [0.1, 0.5, 0.9])))
        for group in np.array_split(np.arange(rows.num_rows), bands)
    )


def _throughput(commits: Sequence[Commit]) -> Throughput:
    """What each part held, over the time since the one before it or since the start of its run."""
    ends, documents, tokens = [0.0], [0], [0]
    starts: list[float] = []
    left_out = 0
    for run_id, parts in groupby(commits, key=lambda commit: commit.run_id):
        begin, previous = ends[-1], _run_start(run_id)
        for part in parts:
            seconds = (part.at - previous).total_seconds() if previous else 0.0
            previous = part.at
            if seconds <= 0:
                left_out += part.documents
                continue
            ends.append(ends[-1] + seconds)
            documents.append(documents[-1] + part.documents)
            tokens.append(tokens[-1] + part.tokens)
        if ends[-1] > begin:
            starts.append(begin)
    edges = _edges(ends)
    intervals = tuple(
        Interval(
            start_s=ends[first],
            end_s=ends[last],
            documents_per_min=60 * (documents[last] - documents[first]) / (ends[last] - ends[first]),
            tokens_per_min=60 * (tokens[last] - tokens[first]) / (ends[last] - ends[first]),
        )
        for first, last in pairwise(edges)
    )
    return Throughput(intervals, tuple(starts), left_out)


def _edges(ends: Sequence[float]) -> list[int]:
    """Which of `ends` to draw: the first, the last, and others so far apart that at most `_INTERVALS` lie between."""
    edges = [0]
    for place, end in enumerate(ends):
        if end > ends[edges[-1]] and end - ends[edges[-1]] >= ends[-1] / _INTERVALS:
            edges.append(place)
    if len(edges) > 1:
        edges[-1] = len(ends) - 1
    return edges


def _run_start(run_id: str) -> datetime | None:
    """When a run began, to the second, as its id says; None for an id that does not say."""
    try:
        return datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
