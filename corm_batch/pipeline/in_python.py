"""run(): a job whose documents a Python program has, and which gives it back the two tables. The job is `run_job`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.newest_rows import read_results
from corm_batch.data.schema import DOC_ID, IN_SOURCE_ORDER, MEMORY_FIELDS, QUESTION_NUMBER
from corm_batch.data.selection import Selection
from corm_batch.data.sources.base import Source
from corm_batch.data.sources.given import GivenRows
from corm_batch.data.sources.refined import refined
from corm_batch.errors import SpecError
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.progress import JobSummary, OnEvent
from corm_batch.pipeline.worker import LoadModel
from corm_batch.registry import shown
from corm_batch.spec import JobSpec, read_sections

_OF_A_SOURCE = ("id_column", "text_column", "text_separator", "filter", "group_by")
_MEMORY = [field.name for field in MEMORY_FIELDS]


@dataclass(frozen=True)
class Tables:
    """What a job has answered.

    Attributes:
        results: the newest row of every document, or rows, as they lie in the source: answers and errors. Of documents
            that were given there are theirs alone, whatever else the output holds.
        memory: what the cache of each took, in the same order.
        summary: the counts of the run.
    """

    results: pa.Table
    memory: pa.Table
    summary: JobSummary


def run(
    spec: JobSpec | Mapping[str, Any] | str | os.PathLike[str],
    documents: Any = None,
    *,
    retry_failed: bool = False,
    selection: Selection | None = None,
    on_event: OnEvent | None = None,
    load_model: LoadModel | None = None,
) -> Tables:
    """Answer documents, of this program or of the spec's source, and give back the tables.

    Args:
        spec: a job: its sections, or the YAML file that has them. With `documents` it needs no `source`, of which only
            `id_column`, `text_column`, `text_separator`, `filter` and `group_by` count; without an `output` the tables
            are all that is left, with one a later run goes on from what is there, and every document needs an id, for
            another run's documents have the same places. `name` may be left out.
        documents: an Arrow table, what has the Arrow interface, as a frame of pandas or Polars does, or mappings of
            column to value, one after the other; None for those of the spec's source.
        retry_failed, selection, on_event, load_model: as `run_job`.

    Raises:
        CormBatchError: as `run_job`; a bad document is a row, and no exception.
    """
    with ExitStack() as stack:
        keeps = True
        if not isinstance(spec, JobSpec):
            spec = {"name": "job", **_sections(spec)}
            if not (keeps := spec.get("output") is not None):
                spec["output"] = {"uri": stack.enter_context(TemporaryDirectory(prefix="corm-batch-"))}
        if documents is not None:
            spec = _about(spec, documents, selection, keeps=keeps)
        job = spec if isinstance(spec, JobSpec) else JobSpec.from_mapping(spec)
        ids = list[str]()
        summary = run_job(
            job,
            retry_failed=retry_failed,
            selection=selection,
            on_event=on_event,
            on_document=None if documents is None else ids.append,
            load_model=load_model,
        )
        return _tables(job, summary, None if documents is None else pa.array(ids, pa.string()))


def _sections(spec: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """The sections of a spec.

    Raises:
        SpecError: it has none.
    """
    found = read_sections(os.fspath(spec)) if isinstance(spec, str | os.PathLike) else spec
    if not isinstance(found, Mapping):
        raise SpecError(f"{spec}: expected sections ({', '.join(JobSpec.model_fields)}), got {shown(found)}")
    return dict(found)


def _about(
    spec: JobSpec | Mapping[str, Any], documents: Any, selection: Selection | None, *, keeps: bool
) -> JobSpec | dict[str, Any]:
    """The spec with these documents as its source; where an output `keeps` their answers they must have ids."""
    given = spec.source.to_spec() if isinstance(spec, JobSpec) else spec.get("source") or {}
    if not isinstance(given, Mapping):
        raise SpecError(f"source: expected a mapping, got {shown(given)}")
    known = {"name", *(name for kind in Source.registered().values() for name in kind.model_fields)}
    if unknown := next((name for name in given if name not in known), None):
        raise SpecError(f"source.{unknown}: unknown key; of documents that are given count {', '.join(_OF_A_SOURCE)}")
    fields = {name: given[name] for name in _OF_A_SOURCE if given.get(name) is not None}
    drawn = selection is not None and selection.seed is not None  # from all of them
    source = GivenRows.of(documents, fields, read_again=drawn)
    if keeps:
        source = source.with_ids()
    return (
        spec.model_copy(update={"source": refined(source)}) if isinstance(spec, JobSpec) else {**spec, "source": source}
    )


def _tables(job: JobSpec, summary: JobSummary, ids: pa.Array | None) -> Tables:
    """What is committed, as it lies in the source; of documents with these ids alone, in their order."""
    results, memory = (_in_order(read_results(job.output.uri, memory=both), ids) for both in (False, True))
    own = {*_MEMORY} - {field.name for field in job.task.result_fields}
    return Tables(results, memory.select([name for name in _MEMORY if name in own]), summary)


def _in_order(rows: pa.Table, ids: pa.Array | None) -> pa.Table:
    if ids is None:
        return rows.sort_by(IN_SOURCE_ORDER)
    places = pc.index_in(rows[DOC_ID.name], ids)
    keys = pa.table({"place": places, "number": rows[QUESTION_NUMBER.name], "row": pa.array(range(len(rows)))})
    order = keys.sort_by([("place", "ascending"), ("number", "ascending")])
    return rows.take(order.filter(pc.is_valid(order["place"]))["row"])
