"""Measure whether what an audit states is true, on jobs whose every document is known to differ or not.

    python -m infra.measure.audit_bound                      # 1,000 jobs of each kind, a minute or two
    python -m infra.measure.audit_bound --jobs 100 --output /tmp/audit_bound.json

Documents are chosen by the hash of their ids, counted and bounded by the very code of a job. A job is simulated as it
runs: documents are read in the order of the source into a look-ahead of 256, of which the longest is answered first,
eight at a time, so what is known early is not what the job is like. The guard looks after every document. Writes
infra/measure/results/audit_bound.json and prints it.

A kind of job says how many documents differ and which: `even` any, `long` mostly the longer half, as eviction does to
them. `shares`: verify.share, one after the other where a job went on under another one. `lost`: chosen documents that
could not be verified.
"""

from __future__ import annotations

import argparse
import heapq
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.guard import Guard
from corm_batch.audit.selection import is_chosen
from corm_batch.audit.statement import Audited, bound_of
from infra.measure.record import begin_record, write_record

LOOK_AHEAD, AT_ONCE = 256, 8
STOP_ABOVE = 0.05
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Kind:
    """One kind of job: documents, the share of them that differs, which, and how they are verified."""

    documents: int
    differing: float
    shares: tuple[float, ...] = (0.05,)
    which: str = "even"
    lost: float = 0.0


KINDS = (
    *(Kind(3000, differing) for differing in (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.3)),
    *(Kind(3000, differing, which="long") for differing in (0.01, 0.05, 0.1)),
    *(Kind(200, differing, (0.3,), "long") for differing in (0.02, 0.05, 0.2)),
    *(Kind(300, differing, (1.0,), "long") for differing in (0.02, 0.05, 0.2)),
    Kind(3000, 0.02, (0.05, 0.5), "long"),
    Kind(3000, 0.02, (1.0, 0.05), "long"),
    Kind(3000, 0.02, lost=0.1),
)


def simulate(kind: Kind, jobs: int, seed: int = 0) -> dict[str, Any]:
    """What became of `jobs` jobs of one kind.

    Returns:
        `true`: jobs whose stated upper bound is no less than the share of documents that differ; `bound`: it, mean;
        `stopped`: jobs that the guard ended, `after`: of these, the mean share of documents that were answered;
        `true_stopped`: of these, those whose statement about what was answered is true.
    """
    rng = np.random.default_rng(seed)
    bounds, truths, after, true_stopped = [], [], [], []
    for job in range(jobs):
        lengths, differs, chosen, lost = _documents(kind, f"{seed}/{job}", rng)
        stated = bound_of(_groups(kind, differs, chosen, lost, np.ones(kind.documents, bool)))
        bounds.append(stated)
        truths.append(stated >= differs.mean() - 1e-12)
        answered = _until_stopped(kind, f"{seed}/{job}", lengths, differs, chosen & ~lost)
        if answered is not None:
            after.append(answered.mean())
            stated = bound_of(_groups(kind, differs, chosen, lost, answered))
            true_stopped.append(stated >= differs[answered].mean() - 1e-12)
    return {
        "true": float(np.mean(truths)),
        "bound": round(float(np.mean(bounds)), 4),
        "stopped": len(after) / jobs,
        "after": round(float(np.mean(after)), 3) if after else None,
        "true_stopped": round(float(np.mean(true_stopped)), 4) if true_stopped else None,
    }


def _ids(kind: Kind, job: str) -> list[str]:
    return [f"s3://archive/{job}/{number}.txt" for number in range(kind.documents)]


def _share_at(kind: Kind, number: int) -> float:
    """The share under which the document is answered: each of them has an equal stretch of the source."""
    return kind.shares[number * len(kind.shares) // kind.documents]


def _documents(kind: Kind, job: str, rng: np.random.Generator) -> tuple[np.ndarray, Flags, Flags, Flags]:
    """Lengths, and which documents differ, are chosen, and cannot be verified."""
    lengths = rng.lognormal(8, 1, kind.documents)
    differs = np.zeros(kind.documents, dtype=bool)
    weights = np.where(lengths > np.median(lengths), 9.0, 1.0) if kind.which == "long" else np.ones(kind.documents)
    count = round(kind.differing * kind.documents)
    differs[rng.choice(kind.documents, count, replace=False, p=weights / weights.sum())] = True
    chosen = np.array([is_chosen(doc_id, _share_at(kind, number)) for number, doc_id in enumerate(_ids(kind, job))])
    return lengths, differs, chosen, rng.random(kind.documents) < kind.lost


def _groups(kind: Kind, differs: Flags, chosen: Flags, lost: Flags, answered: Flags) -> list[Audited]:
    """The counts that a report takes from the rows of what was answered."""
    shares = np.array([_share_at(kind, number) for number in range(kind.documents)])
    verified = chosen & ~lost & answered
    return [
        Audited(
            audited=int((answered & (shares == share)).sum()),
            verified=int((verified & (shares == share)).sum()),
            differing=int((verified & differs & (shares == share)).sum()),
            unverified=int((chosen & lost & answered & (shares == share)).sum()),
        )
        for share in dict.fromkeys(kind.shares)
    ]


def _until_stopped(kind: Kind, job: str, lengths: np.ndarray, differs: Flags, verified: Flags) -> Flags | None:
    """Which documents were answered when the guard ended the job; None where it did not."""
    if len(kind.shares) > 1:  # each a run with a guard of its own
        return None
    guard = Guard(VerifyConfig(share=kind.shares[0], stop_above=STOP_ABOVE))
    ids, unread = _ids(kind, job), deque(range(kind.documents))
    waiting: list[tuple[float, int]] = []
    in_flight: deque[int] = deque()
    answered, found = np.zeros(kind.documents, dtype=bool), 0
    while unread or waiting or in_flight:
        while unread and len(waiting) < LOOK_AHEAD:
            number = unread.popleft()
            guard.read(ids[number])
            heapq.heappush(waiting, (-lengths[number], number))
        while waiting and len(in_flight) < AT_ONCE:
            in_flight.append(heapq.heappop(waiting)[1])
        number = in_flight.popleft()
        answered[number] = True
        found += int(verified[number] and differs[number])
        guard.found(found)
        if guard.stops:
            return answered
    return None


def main() -> None:
    """Simulate every kind of job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="of each kind")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/audit_bound.json")
    arguments = parser.parse_args()
    record = begin_record("audit_bound", jobs=arguments.jobs, confidence=0.95, stop_above=STOP_ABOVE)
    record["kinds"] = [{**vars(kind), **simulate(kind, arguments.jobs, seed)} for seed, kind in enumerate(KINDS)]
    write_record(record, arguments.output)


if __name__ == "__main__":
    main()
