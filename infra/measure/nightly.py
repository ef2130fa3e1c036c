"""Measure a night: a run over documents that are nearly all answered already, with an engine that does nothing.

    python -m infra.measure.nightly                   # 100,000 unchanged documents and 10 that changed

Writes infra/measure/results/nightly.json and prints it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from corm_batch.pipeline.driver import run_job
from infra.measure.no_op_job import ROOT, commit_history, load_no_op, measured, no_op_spec, write_archive
from infra.measure.record import begin_record, write_record


def night(place: Path) -> dict[str, Any]:
    """One run: its seconds, and those of them that were left when its engine started."""
    mark, started = place / "engine", time.time()
    mark.unlink(missing_ok=True)
    summary = run_job(no_op_spec(place), load_model=partial(load_no_op, mark))
    ended = time.time()
    return {
        "ok": summary.ok,
        "failed": summary.failed,
        "skipped": summary.skipped,
        "run_s": round(ended - started, 2),
        "from_engine_start_s": round(ended - mark.stat().st_mtime, 2) if mark.exists() else None,
    }


def measure(place: Path, unchanged: int, changed: int) -> dict[str, Any]:
    """Build the archive as it was answered, change it, and run twice: the second night has nothing to do."""
    documents = unchanged + changed
    write_archive(place, documents)
    commit_history(no_op_spec(place), documents)
    write_archive(place, documents, changed)
    return {"night": measured(night, place), "night_after": measured(night, place)}


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unchanged", type=int, default=100_000)
    parser.add_argument("--changed", type=int, default=10)
    parser.add_argument("--output", type=Path, default=ROOT / "infra/measure/results/nightly.json")
    arguments = parser.parse_args()
    record = begin_record("nightly", unchanged=arguments.unchanged, changed=arguments.changed)
    with tempfile.TemporaryDirectory() as folder:
        record |= measure(Path(folder), arguments.unchanged, arguments.changed)
    write_record(record, arguments.output)


if __name__ == "__main__":
    main()
