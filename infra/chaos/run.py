"""Kill what a job is made of, in a seeded series, and compare its output with that of an undisturbed run.

    python -m infra.chaos.run --seed 1 --seed 2 --seed 3 --documents 500 --kills 30

A Ray cluster of several raylets on this machine runs one job; real processes are ended while it works:

    actor      SIGKILL to one replica
    node       SIGKILL to a raylet and all its workers; another node joins
    driver     SIGKILL to the driver; the next one takes the lease over at once
    elsewhere  the same, with a lease that says another machine, so that it has to expire
    commit     SIGKILL to the driver between the two files of a part
    terminate  SIGTERM to the driver, which has three seconds
    rival      a second driver for the same output, which has to give up
    freeze     SIGSTOP to the driver until another one has taken its output over, then SIGCONT

Some documents kill, hang or break their replica besides. The exit code is 1 when anything is lost, there twice or
different, when work is repeated that nothing had interrupted, or more of it than the bounds allow.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.newest_rows import read_results
from corm_batch.data.parts import list_parts, read_part
from corm_batch.spec import JobSpec
from infra.chaos.account import Account, Answer, Bounds, account
from infra.chaos.driver import MODEL
from infra.chaos.faults import KINDS, Fault, Series

BOUNDS = Bounds(in_flight=4, replicas=2, part=16)
COMMANDS = ("@kill", "@hang", "@endless", "@error")
STEP_S = 0.15
STALE_S = 3.0
LATEST = 0.85


def documents(number: int, rng: random.Random) -> dict[str, str]:
    """Texts by id; one in 150 is dangerous."""
    texts = {f"d{i:04}": f"Document {i} is about the number {i}. " * rng.randint(1, 8) for i in range(number)}
    for command, name in zip(COMMANDS[: 1 + number // 150], rng.sample(sorted(texts), len(COMMANDS)), strict=False):
        texts[name] = f"{command} {texts[name]}"
    return texts


def faults(kills: int, number: int, rng: random.Random) -> list[Fault]:
    """Every kind as often, at random numbers of answered documents and some time later."""
    kinds = [KINDS[i % len(KINDS)] for i in range(kills)]
    rng.shuffle(kinds)
    points = sorted(rng.choices(range(int(LATEST * number)), k=kills))
    return [
        Fault(kind, point, rng.uniform(0, 1), rng.randrange(1 << 16)) for kind, point in zip(kinds, points, strict=True)
    ]


def job(folder: Path, texts: dict[str, str], output: str, timeout_s: float = 8.0) -> JobSpec:
    """The spec over `texts` in `folder`; a document has `timeout_s` seconds."""
    schema = pa.schema({"doc_id": pa.string(), "text": pa.string()})
    source = folder / "documents.parquet"
    pq.write_table(pa.table({"doc_id": list(texts), "text": list(texts.values())}, schema=schema), source)
    return JobSpec.from_mapping(
        {
            "name": "chaos",
            "model": {"name": MODEL, "dtype": "float32", "device": "cpu", "document_role": "document"},
            "source": {"name": "parquet", "uri": str(source)},
            "task": {"name": "summarize", "max_new_tokens": 8},
            "policy": {"name": "full"},
            "engine": {"max_sequences": BOUNDS.in_flight // 2},
            "cluster": {"replicas": {"max": BOUNDS.replicas}, "document_timeout_s": timeout_s},
            "output": {"uri": str(folder / output), "part_documents": BOUNDS.part},
        }
    )


def committed(spec: JobSpec) -> list[tuple[str, str, Answer]]:
    """(document, run, answer) of every row of every part."""
    tables = [read_part(uri) for uri in list_parts(f"{spec.output.uri}/results")]
    columns = ("doc_id", "run_id", "status", "output", "error_type")
    rows = [row for table in tables for row in table.select(columns).to_pylist()]
    return [(row["doc_id"], row["run_id"], (row["status"], row["output"], row["error_type"])) for row in rows]


def run_series(seed: int, number: int, kills: int, clocks_s: float, folder: Path) -> tuple[Account, dict[str, Any]]:
    """One undisturbed and one disturbed run, compared; and what else was measured."""
    rng = random.Random(seed)
    texts = documents(number, rng)
    calm, disturbed = job(folder, texts, "calm"), job(folder, texts, "disturbed")
    series = Series(folder, STALE_S, clocks_s=clocks_s)
    try:
        started = time.monotonic()
        series.run(calm, [], step_s=0.0)
        between = time.monotonic()
        series.run(disturbed, faults(kills, number, rng), STEP_S)
        ended = time.monotonic()
    finally:
        series.close()
    expected = {document: answer for document, _, answer in committed(calm)}
    dangerous = {document for document, text in texts.items() if text.startswith(COMMANDS)}
    result = account(series.journal(), committed(disturbed), expected, dangerous, BOUNDS)
    result.violations += series.problems
    result.lost += number - len(expected)
    read = read_results(disturbed.output.uri).column("doc_id").to_pylist()
    struck = Counter(entry["kind"] for entry in series.journal() if entry["event"] == "fault")
    return result, {
        "seed": seed,
        "clocks_s": clocks_s,
        "kills": sum(struck.values()),
        "kinds": dict(sorted(struck.items())),
        "undisturbed_s": round(between - started, 1),
        "disturbed_s": round(ended - between, 1),
        "commit_after_sigterm_s": round(series.slowest_stop_s, 2),
        "read_twice": len(read) - len(set(read)),
    }


def main() -> int:
    """Run the series, print a table and write what was found; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="one series each; default: 1, 2 and 3")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument(
        "--clocks-s",
        type=float,
        action="append",
        help="by so much one driver's clock and the next's differ; each with every seed; default: 0",
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "command": " ".join(["python -m infra.chaos.run", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "passed": True,
        "series": [],
    }
    print("| seed | clocks | documents | kills | lost | duplicated | different | recomputed | violations | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for seed, clocks_s in itertools.product(arguments.seed or [1, 2, 3], arguments.clocks_s or [0.0]):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            result, figures = run_series(seed, arguments.documents, arguments.kills, clocks_s, Path(folder))
        counts = (result.lost, result.duplicated, result.different, result.recomputed, len(result.violations))
        cells = (seed, clocks_s, result.documents, figures["kills"], *counts, figures["disturbed_s"])
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        found["series"].append({**figures, **result.to_json()})
        found["passed"] = found["passed"] and result.passed and figures["kills"] == arguments.kills
        if arguments.output:
            arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that the cluster ends too
    sys.exit(main())
