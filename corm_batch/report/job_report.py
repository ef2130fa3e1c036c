"""JobReport: what the committed parts of an output say about its documents, their memory and their time.

Knows nothing of specs or of how a report is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.output.committed import RunRecord, read_committed

_EXAMPLES, _SLOWEST = 3, 5


@dataclass(frozen=True)
class Spread:
    """How one figure spreads over the documents: mean, 10th and 90th percentile."""

    mean: float
    p10: float
    p90: float


@dataclass(frozen=True)
class FailureGroup:
    """Failed documents of one error type, with the first few as (doc_id, error_message)."""

    error_type: str
    documents: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SlowDocument:
    """One of the documents that kept a replica busy longest; queue_s is not counted as busy."""

    doc_id: str
    prompt_tokens: int
    output_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class JobReport:
    """Figures of the newest row of every document; memory and time are those of the answered ones.

    Attributes:
        documents, ok, failed: counts.
        runs: how many runs wrote these rows.
        recorded: documents, tokens and wall time of all runs that came to their end; a killed one left no record.
        policies: the policies they were answered under, as JSON; more than one when the spec changed in between.
        prompt_tokens, output_tokens: tokens in all.
        kv_bytes_full: sum of what uncompressed caches would hold at the end of each document.
        kv_bytes_peak: sum of the most pages each document held.
        kv_bytes_final: sum of the pages each held at its end.
        kept_ratio: entries stored at the end over entries of an uncompressed cache, by document.
        kept_per_layer: the same by layer, over all documents, first layer first; empty when the rows come from models
            of different depth.
        evicted_attention_mass: by document, the share of attention that lay on entries when they left; None when no
            policy summed it up.
        preemptions: times a document had to make room.
        queue_s, prefill_s, decode_s: seconds in all, over all documents (which run side by side).
        failures: the failed documents, the commonest error type first.
        slowest: the documents with the longest prefill and decode, longest first.
    """

    documents: int
    ok: int
    failed: int
    runs: int
    recorded: RunRecord
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
    failures: tuple[FailureGroup, ...]
    slowest: tuple[SlowDocument, ...]

    @property
    def tokens_per_s(self) -> float:
        """Tokens read and written by wall time of the recorded runs."""
        return self.recorded.tokens / self.recorded.seconds if self.recorded.seconds else 0.0

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
    return build_report(committed.rows, committed.recorded) if committed is not None else None


def build_report(rows: pa.Table, recorded: RunRecord) -> JobReport:
    """The figures of `rows`: the newest row of every document, with the columns of both tables."""
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    unknown = ok.num_rows and ok["evicted_attention_mass"].null_count == ok.num_rows
    return JobReport(
        documents=rows.num_rows,
        ok=ok.num_rows,
        failed=rows.num_rows - ok.num_rows,
        runs=len(rows["run_id"].unique()),
        recorded=recorded,
        policies=tuple(sorted(policy for policy in ok["policy"].unique().to_pylist() if policy)),
        prompt_tokens=int(_sum(ok, "prompt_tokens")),
        output_tokens=int(_sum(ok, "output_tokens")),
        kv_bytes_full=int(_sum(ok, "kv_bytes_full")),
        kv_bytes_peak=int(_sum(ok, "kv_bytes_peak")),
        kv_bytes_final=int(_sum(ok, "kv_bytes_final")),
        kept_ratio=_spread(ok, "kept_ratio"),
        kept_per_layer=_kept_per_layer(ok),
        evicted_attention_mass=None if unknown else _spread(ok, "evicted_attention_mass"),
        preemptions=int(_sum(ok, "preemptions")),
        queue_s=_sum(ok, "queue_s"),
        prefill_s=_sum(ok, "prefill_s"),
        decode_s=_sum(ok, "decode_s"),
        failures=_failures(rows),
        slowest=slowest_documents(ok, _SLOWEST),
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


def _failures(rows: pa.Table) -> tuple[FailureGroup, ...]:
    """Failed rows by error type."""
    failed = rows.filter(pc.equal(rows["status"], "failed"))
    groups = []
    for counted in pc.value_counts(failed["error_type"]).to_pylist():
        first = failed.filter(pc.equal(failed["error_type"], counted["values"])).slice(0, _EXAMPLES)
        examples = tuple(zip(first["doc_id"].to_pylist(), first["error_message"].to_pylist(), strict=True))
        groups.append(FailureGroup(counted["values"], counted["counts"], examples))
    return tuple(sorted(groups, key=lambda group: (-group.documents, group.error_type)))


def slowest_documents(rows: pa.Table, limit: int) -> tuple[SlowDocument, ...]:
    """The documents that took longest once they had room, longest first."""
    columns = ["doc_id", "prompt_tokens", "output_tokens", "queue_s", "prefill_s", "decode_s"]
    busy_s = pc.add(rows["prefill_s"], rows["decode_s"])
    rows = rows.select(columns).append_column("busy_s", busy_s)
    rows = rows.filter(pc.and_(pc.is_valid(busy_s), pc.is_valid(rows["queue_s"])))
    longest = pc.select_k_unstable(rows, limit, [("busy_s", "descending"), ("doc_id", "ascending")])
    return tuple(SlowDocument(**row) for row in rows.take(longest).select(columns).to_pylist())
