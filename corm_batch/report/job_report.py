"""JobReport: what the committed parts of an output say about its documents, their memory and their time.

Knows nothing of specs or of how a report is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.audit.statement import Audited, bound_of, statement
from corm_batch.output.committed import Committed, JobSettings, read_committed
from corm_batch.output.marks import Marks
from corm_batch.output.run_records import RunRecord
from corm_batch.report.failures import FailureReasons, failure_reasons

_SLOWEST = 5


@dataclass(frozen=True)
class Spread:
    """How one figure spreads over the documents: mean, 10th and 90th percentile."""

    mean: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Pace:
    """How fast rows that stand were written.

    Attributes:
        documents, tokens: of these rows, answered and failed; a document that was answered again counts once.
        seconds: wall time of their runs, each in proportion to the rows of it that stand.
        untimed: rows that stand of runs that left no record, as killed ones; they are not among `documents`.
        gpu_s: GPU-seconds that replicas held in these runs, likewise.
        cost: of these, at the prices that the runs' specs said; None where one that held a GPU said none.
    """

    documents: int
    tokens: int
    seconds: float
    untimed: int
    gpu_s: float = 0.0
    cost: float | None = None


@dataclass(frozen=True)
class SlowDocument:
    """One of the documents that took most of a replica's time; queue_s is not part of that."""

    doc_id: str
    prompt_tokens: int
    output_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class JobReport:
    """Figures of the newest row of every document; memory is that of the answered ones.

    Attributes:
        documents, ok, failed: counts.
        cut_off, truncated, looping, with_failed_fields, fallback, audited, verified, differing, rerun, unverified,
            scored: documents, answered or failed, with the mark of that name (`corm_batch.output.marks`).
        verification: what the verified documents say of all, in one line; empty where none was to be verified.
        differing_at_most: with 95 % confidence, the share of the audited documents that an uncompressed cache would
            have answered otherwise; None where none was verified.
        logprob_loss: nats a token, mean over verified documents, by which an uncompressed cache finds the answers less
            likely than the cache that gave them; None where none was verified.
        failed_files: (URI, error) of files that the newest recorded run could not read, or not to their end.
        selection: what the newest recorded run was limited to, in words; empty for the whole source.
        runs: how many runs wrote these rows.
        jobs: who wrote them, most rows first.
        pace: documents and tokens by time.
        policies: the policies they were answered under, as JSON; more than one when the spec changed in between.
        prompt_tokens, output_tokens: tokens in all, those spent on failed documents too.
        kv_bytes_full: sum of what uncompressed caches would hold at the end of each document.
        kv_bytes_peak: sum of the most pages each document held; of one in pieces those of its largest piece count.
        kv_bytes_final: sum of the pages each held at its end.
        kept_ratio: entries stored at the end over entries of an uncompressed cache, by document.
        kept_per_layer: the same by layer, over all documents, first layer first; empty when the rows come from models
            of different depth.
        evicted_attention_mass: by document, the share of attention that lay on entries when they left; None when no
            policy summed it up.
        preemptions: times a document had to make room.
        queue_s: mean seconds a document waited for room.
        prefill_s, decode_s, verify_s: seconds that replicas spent on reading, on answering and on verifying, over all
            documents.
        error_types: how many there are; `failures` are of the commonest, the commonest first.
        slowest: the documents with the largest shares of prefill and decode, the largest first.
    """

    documents: int
    ok: int
    failed: int
    cut_off: int
    truncated: int
    looping: int
    with_failed_fields: int
    fallback: int
    audited: int
    verified: int
    differing: int
    rerun: int
    unverified: int
    scored: int
    verification: str
    differing_at_most: float | None
    logprob_loss: float | None
    failed_files: tuple[tuple[str, str], ...]
    selection: str
    runs: int
    jobs: tuple[JobSettings, ...]
    pace: Pace
    policies: tuple[str, ...]
    prompt_tokens: int
    output_tokens: int
    kv_bytes_full: int
    kv_bytes_peak: int
    kv_bytes_final: int
    kept_ratio: Spread
    kept_per_layer: tuple[float, ...]
    evicted_attention_mass: Spread | None
    preemptions: int
    queue_s: float
    prefill_s: float
    decode_s: float
    verify_s: float
    error_types: int
    failures: tuple[FailureReasons, ...]
    slowest: tuple[SlowDocument, ...]

    @property
    def tokens_per_s(self) -> float:
        """Tokens read and written by wall time."""
        return self.pace.tokens / self.pace.seconds if self.pace.seconds else 0.0

    @property
    def saved_ratio(self) -> float:
        """Bytes never needed at once, of those an uncompressed cache would have held; negative when pages cost more."""
        return 1 - self.kv_bytes_peak / self.kv_bytes_full if self.kv_bytes_full else 0.0


def read_report(output_uri: str) -> JobReport | None:
    """The report of what is committed at `output_uri`; None when nothing is.

    Raises:
        SourceError: a part or a run's record cannot be read.
    """
    committed = read_committed(output_uri)
    return build_report(committed) if committed is not None else None


def build_report(committed: Committed) -> JobReport:
    """The figures of what is committed at an output."""
    rows = committed.rows
    ok, failed = (rows.filter(pc.equal(rows["status"], status)) for status in ("ok", "failed"))
    groups = _audited(rows)
    newest = max(committed.records, key=lambda run: run.run_id, default=None)
    unknown = ok.num_rows and ok["evicted_attention_mass"].null_count == ok.num_rows
    return JobReport(
        documents=rows.num_rows,
        ok=ok.num_rows,
        failed=failed.num_rows,
        **Marks.count(rows),
        verification=statement(groups),
        differing_at_most=bound_of(groups) if sum(group.verified for group in groups) else None,
        logprob_loss=pc.mean(pc.subtract(rows["logprob_kept"], rows["logprob_full"])).as_py(),
        failed_files=newest.failed_files if newest is not None else (),
        selection=newest.selection if newest is not None else "",
        runs=len(rows["run_id"].unique()),
        jobs=committed.jobs,
        pace=_pace(rows, committed.records),
        policies=tuple(sorted(policy for policy in ok["policy"].unique().to_pylist() if policy)),
        prompt_tokens=int(_sum(rows, "prompt_tokens")),
        output_tokens=int(_sum(rows, "output_tokens")),
        kv_bytes_full=int(_sum(ok, "kv_bytes_full")),
        kv_bytes_peak=int(_sum(ok, "kv_bytes_peak")),
        kv_bytes_final=int(_sum(ok, "kv_bytes_final")),
        kept_ratio=_spread(ok, "kept_ratio"),
        kept_per_layer=_kept_per_layer(ok),
        evicted_attention_mass=None if unknown else _spread(ok, "evicted_attention_mass"),
        preemptions=int(_sum(ok, "preemptions")),
        queue_s=pc.mean(rows["queue_s"]).as_py() or 0.0,
        prefill_s=_sum(rows, "prefill_s"),
        decode_s=_sum(rows, "decode_s"),
        verify_s=_sum(rows, "verify_s"),
        error_types=len(pc.unique(failed["error_type"])),
        failures=failure_reasons(failed),
        slowest=slowest_documents(ok, _SLOWEST),
    )


def _audited(rows: pa.Table) -> list[Audited]:
    """What was verified of the rows, by the share that was to be."""
    shares = pc.unique(rows["verify_share"]).drop_null().to_pylist()
    counts = (Marks.count(rows.filter(pc.equal(rows["verify_share"], share))) for share in sorted(shares))
    return [Audited(**{one.name: found[one.name] for one in fields(Audited)}) for found in counts]


def _pace(rows: pa.Table, records: Sequence[RunRecord]) -> Pace:
    """Rows that stand over the time of the runs that wrote them."""
    tokens = pc.add(pc.fill_null(rows["prompt_tokens"], 0), pc.fill_null(rows["output_tokens"], 0))
    rows = pa.table({"run_id": rows["run_id"].cast(pa.string()), "tokens": tokens})
    standing = rows.group_by("run_id").aggregate([("tokens", "count"), ("tokens", "sum")]).to_pylist()
    timed = {run.run_id: run for run in records if run.seconds > 0 and run.documents}
    found = [row for row in standing if row["run_id"] in timed]
    documents = sum(row["tokens_count"] for row in found)
    shares = {row["run_id"]: min(1.0, row["tokens_count"] / timed[row["run_id"]].documents) for row in found}
    held = [(timed[run_id], share * timed[run_id].gpu_s) for run_id, share in shares.items()]
    prices = [(run.price_per_gpu_hour, gpu_s / 3600) for run, gpu_s in held if gpu_s]
    return Pace(
        documents=documents,
        tokens=sum(row["tokens_sum"] for row in found),
        seconds=sum(share * timed[run_id].seconds for run_id, share in shares.items()),
        untimed=rows.num_rows - documents,
        gpu_s=sum(gpu_s for _, gpu_s in held),
        cost=sum(price * hours for price, hours in prices if price is not None)
        if prices and all(price is not None for price, _ in prices)
        else None,
    )


def _sum(table: pa.Table, column: str) -> float:
    return pc.sum(table[column]).as_py() or 0


def _spread(table: pa.Table, column: str) -> Spread:
    """All zero without documents."""
    mean = pc.mean(table[column]).as_py()
    if mean is None:
        return Spread(0.0, 0.0, 0.0)
    p10, p90 = pc.quantile(table[column], q=[0.1, 0.9]).to_pylist()
    return Spread(mean, p10, p90)


def _kept_per_layer(rows: pa.Table) -> tuple[float, ...]:
    """Entries stored in each layer over those of an uncompressed cache, summed over documents."""
    kept, full = layer_entries(rows)
    return tuple((kept.sum(axis=0) / full.sum()).tolist()) if kept.size else ()


def layer_entries(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Entries stored, one row a document and one column a layer, and those of one layer of an uncompressed cache.

    Both are empty when the rows come from models of different depth. The tables hold no uncompressed count by layer. A
    document's total is what it kept over its kept ratio, and layers without a sliding window share it evenly.
    """
    rows = rows.select(["kept_ratio", "kept_per_layer"]).filter(pc.greater(rows["kept_ratio"], 0))
    depths = pc.unique(pc.list_value_length(rows["kept_per_layer"])).to_pylist()
    if len(depths) != 1 or not depths[0]:
        return np.empty((0, 0)), np.empty(0)
    kept = pc.list_flatten(rows["kept_per_layer"]).to_numpy().reshape(-1, depths[0])
    return kept, kept.sum(axis=1) / rows["kept_ratio"].to_numpy() / depths[0]


def slowest_documents(rows: pa.Table, limit: int) -> tuple[SlowDocument, ...]:
    """The documents that took longest once they had room, longest first."""
    columns = ["doc_id", "prompt_tokens", "output_tokens", "queue_s", "prefill_s", "decode_s"]
    busy_s = pc.add(rows["prefill_s"], rows["decode_s"])
    rows = rows.select(columns).append_column("busy_s", busy_s)
    rows = rows.filter(pc.and_(pc.is_valid(busy_s), pc.is_valid(rows["queue_s"])))
    longest = pc.select_k_unstable(rows, limit, [("busy_s", "descending"), ("doc_id", "ascending")])
    return tuple(SlowDocument(**row) for row in rows.take(longest).select(columns).to_pylist())
