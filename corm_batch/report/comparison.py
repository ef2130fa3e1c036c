"""Comparison: the same documents in two outputs. Knows nothing of how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.output.committed import Committed
from corm_batch.report.listed_documents import DocumentFigures, by_length, document_figures, evenly, measured
from corm_batch.report.settings import SettingDifference, differences

Verdict = Literal["failed here", "failed there", "failed in both", "answer differs", "text differs", "same answer"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # in the order in which documents are listed


@dataclass(frozen=True)
class Side:
    """Sums of one output over the documents of the same text that both outputs answered.

    Attributes:
        kv_bytes_full, kv_bytes_peak: bytes of uncompressed caches, and the most each document held.
        kept_ratio: mean over the documents.
        prompt_tokens, output_tokens: tokens in all.
        prefill_s, decode_s: seconds in all.
    """

    kv_bytes_full: int
    kv_bytes_peak: int
    kept_ratio: float
    prompt_tokens: int
    output_tokens: int
    prefill_s: float
    decode_s: float

    @property
    def saved_ratio(self) -> float:
        """Bytes never needed at once, of the uncompressed ones."""
        return 1 - self.kv_bytes_peak / self.kv_bytes_full if self.kv_bytes_full else 0.0


_SUMS = [field.name for field in fields(Side)]


@dataclass(frozen=True)
class DocumentPair:
    """One document in both outputs."""

    verdict: Verdict
    here: DocumentFigures
    there: DocumentFigures


@dataclass(frozen=True)
class Comparison:
    """One output, "here", beside another one, "there".

    Attributes:
        only_here, only_there, shared: documents in one of them, and in both.
        settings: every setting in which the two are not alike, with their values here and there.
        verdicts: shared documents by how they compare; only those of one text are compared further.
        answered: documents of one text with an answer and memory figures in both; `here` and `there` are about them.
        documents: the shared ones, what differs first, by id; at most as many as were asked for.
        spread: documents of `answered`, evenly spread over their lengths; at most as many as were asked for.
    """

    only_here: int
    only_there: int
    shared: int
    settings: tuple[SettingDifference, ...]
    verdicts: dict[Verdict, int]
    answered: int
    here: Side
    there: Side
    documents: tuple[DocumentPair, ...]
    spread: tuple[DocumentPair, ...]


def compare(here: Committed, there: Committed, limit: int) -> Comparison:
    """Compare two outputs that were read with their answers; at most `limit` documents are listed."""
    places = pc.index_in(here.rows["doc_id"], there.rows["doc_id"])
    left = here.rows.drop_columns(["kept_per_layer"]).filter(pc.is_valid(places))
    right = there.rows.drop_columns(["kept_per_layer"]).take(places.drop_null())
    shared = left.num_rows
    left = left.append_column("verdict", _verdicts(left, right)).append_column("row", pa.array(np.arange(shared)))
    ranks = pa.table({"rank": pc.index_in(left["verdict"], pa.array(VERDICTS)), "doc_id": left["doc_id"]})
    listed = pc.select_k_unstable(ranks, limit, [("rank", "ascending"), ("doc_id", "ascending")])
    answered = _answered(left, right)
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(left["verdict"]).to_pylist()}
    return Comparison(
        only_here=here.rows.num_rows - shared,
        only_there=there.rows.num_rows - shared,
        shared=shared,
        settings=differences(here.jobs, there.jobs),
        verdicts={verdict: counts.get(verdict, 0) for verdict in VERDICTS},
        answered=answered.num_rows,
        here=_side(answered),
        there=_side(right.select(_SUMS).take(answered["row"])),
        documents=_pairs(left, right, listed),
        spread=_pairs(left, right, evenly(answered, limit)["row"]),
    )


def _verdicts(left: pa.Table, right: pa.Table) -> pa.ChunkedArray:
    same_text = pc.equal(left["content_sha256"], right["content_sha256"])
    same_answer = pc.fill_null(pc.equal(left["answer_digest"], right["answer_digest"]), False)
    here, there = (pc.equal(side["status"], "ok") for side in (left, right))
    cases = {
        "text differs": pc.invert(same_text),
        "failed in both": pc.invert(pc.or_(here, there)),
        "failed here": pc.invert(here),
        "failed there": pc.invert(there),
        "same answer": same_answer,
    }
    conditions = pc.make_struct(*cases.values(), field_names=list(cases))
    return pc.case_when(conditions, *map(pa.scalar, cases), pa.scalar("answer differs"))


def _answered(left: pa.Table, right: pa.Table) -> pa.Table:
    """Rows of `left` that both answered, from the same text and with memory figures, shortest first; without texts."""
    alike = pc.is_in(left["verdict"], pa.array(["same answer", "answer differs"]))
    rows = left.select(["doc_id", "status", *_SUMS, "row"])
    return by_length(rows.filter(pc.and_(alike, measured(right))))


def _side(rows: pa.Table) -> Side:
    sums = {name: pc.sum(rows[name]).as_py() or 0 for name in _SUMS if name != "kept_ratio"}
    return Side(**sums, kept_ratio=pc.mean(rows["kept_ratio"]).as_py() or 0.0)


def _pairs(left: pa.Table, right: pa.Table, rows: pa.Array) -> tuple[DocumentPair, ...]:
    """These rows of both tables, which are about the same documents row by row."""
    left, right = left.take(rows), right.take(rows)
    sides = document_figures(left), document_figures(right)
    return tuple(DocumentPair(*pair) for pair in zip(left["verdict"].to_pylist(), *sides, strict=True))
