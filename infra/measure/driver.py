"""Measure the driver alone: list, plan and resume an archive, and hand out documents to an engine that does nothing.

    python -m infra.measure.driver                    # a million documents
    python -m infra.measure.driver --carried          # with columns of the source in every row, CSV, and exports
    python -m infra.measure.driver --documents 5000 --fed 500 --output /tmp/driver.json

Every phase runs in a process of its own, whose peak of memory is taken. Writes infra/measure/results/driver.json, or
driver_carried.json, and prints it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from corm_batch.output.export import export_rows, format_of
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.plan import plan_job
from infra.measure.no_op_job import (
    ROOT,
    commit_history,
    load_no_op,
    measured,
    no_op_spec,
    write_archive,
)
from infra.measure.record import begin_record, write_record

CARRIED = {"columns": ["url", "meta"], "format": "csv"}
EXPORTS = ("csv", "jsonl", "parquet")


def build(place: Path, output: dict[str, Any], documents: int) -> dict[str, Any]:
    """The archive and the parts of a run that answered all of it."""
    write_archive(place, documents, columns="columns" in output)
    commit_history(no_op_spec(place, **output), documents)
    sizes = [file.stat().st_size for file in (place / "archive").iterdir()]
    return {
        "files": len(sizes),
        "archive_bytes": sum(sizes),
        "parts": len(list((place / "out/results").iterdir())),
    }


def list_splits(place: Path, output: dict[str, Any]) -> dict[str, Any]:
    """What a run does first: every file's footer."""
    splits = no_op_spec(place, **output).splits()
    return {"splits": len(splits), "documents": sum(split.num_rows for split in splits)}


def plan(place: Path, output: dict[str, Any]) -> dict[str, Any]:
    """`corm-batch plan`."""
    found = plan_job(no_op_spec(place, **output))
    return {"documents": found.documents, "documents_read": found.measured, "done_of_these": found.done}


def resume(place: Path, output: dict[str, Any]) -> dict[str, Any]:
    """A run that finds everything done: every document of the archive held against the ledger, and where the output is
    one file, that written."""
    return {"done": run_job(no_op_spec(place, **output), load_model=load_no_op).skipped}


def export(place: Path, output: dict[str, Any], suffix: str) -> dict[str, Any]:
    """`corm-batch export` of all rows to one file."""
    target, started = place / f"rows.{suffix}", time.perf_counter()
    count = export_rows(no_op_spec(place, **output).output.uri, str(target), format_of(target.name))
    seconds = time.perf_counter() - started
    return {"rows": count, "bytes": target.stat().st_size, "rows_per_s": round(count / seconds)}


def feed(place: Path, output: dict[str, Any]) -> dict[str, Any]:
    """A whole run on two replicas that do nothing: seconds from the first row to the last, and of everything."""
    times: list[float] = []

    def note(event: Any) -> None:
        if event.kind == "document":
            times.append(event.progress.seconds)

    summary = run_job(no_op_spec(place, replicas=2, **output), load_model=load_no_op, on_event=note)
    return {
        "ok": summary.ok,
        "run_s": round(summary.seconds, 2),
        "documents_per_s": round((len(times) - 1) / (times[-1] - times[0])),
    }


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000, help="of the archive that is planned and resumed")
    parser.add_argument("--fed", type=int, default=20_000, help="documents that are handed out")
    parser.add_argument("--carried", action="store_true", help="rows have columns of the source; CSV, and exports")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    output, name = (CARRIED, "driver_carried") if arguments.carried else ({}, "driver")
    record = begin_record("driver", documents=arguments.documents)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "large")
        record["build"] = measured(build, place, output, arguments.documents)
        for phase in (list_splits, plan, resume):
            record[phase.__name__] = measured(phase, place, output)
        for suffix in EXPORTS if arguments.carried else ():
            record[f"export_{suffix}"] = measured(export, place, output, suffix)
        write_archive(Path(folder, "fed"), arguments.fed, columns=arguments.carried)
        record["feed"] = measured(feed, Path(folder, "fed"), output)
    write_record(record, arguments.output or ROOT / f"infra/measure/results/{name}.json")


if __name__ == "__main__":
    main()
