"""Measure who reads an output: `corm-batch report`, alone and with --compare, and `read_results`.

    python -m infra.measure.report                    # a million documents
    python -m infra.measure.report --documents 5000 --output /tmp/report.json

The output is what a job with a model of 32 layers would commit, with figures that are made up: a run over everything,
in which one document in 50 fails, and one that answers the first tenth again. Every phase runs in a process of its own,
whose peak of memory is taken. Writes infra/measure/results/report.json and prints it.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corm_batch import read_results
from corm_batch.cli import app
from corm_batch.data.filesystem import write_whole
from corm_batch.data.parts import Table, encode_part, folder, part_name
from corm_batch.data.schema import memory_schema, result_schema
from infra.measure.no_op_job import ROOT, batched_range, measured
from infra.measure.record import begin_record, write_record

FIRST_RUN, SECOND_RUN = "20260101T000000Z-aaaaaa", "20260201T000000Z-bbbbbb"
PART_DOCUMENTS, PART_S = 1000, 60.0
LAYERS, KV_HEADS, ENTRY_BYTES = 32, 8, 512  # of an 8B Llama in bfloat16
FAILED_EVERY = 50
POLICY = '{"name": "corm", "window": 256, "recent": 256, "tau": 1.0, "budget": null}'


def build(place: Path, documents: int) -> dict[str, Any]:
    """Two runs."""
    rng = np.random.default_rng(0)
    words = rng.choice([f"word{number}" for number in range(4000)], 100_000).tolist()
    for run_id, count in ((FIRST_RUN, documents), (SECOND_RUN, documents // 10)):
        for number, numbers in enumerate(batched_range(count, PART_DOCUMENTS)):
            columns = {**_texts(rng, numbers, run_id, words), **_figures(rng, len(numbers))}
            _commit(place, run_id, number, columns)
        seconds = PART_S * (number + 1)
        run = {"ok": count, "failed": 0, "seconds": seconds}
        write_whole(f"{place}/_job/runs/{run_id}.json", json.dumps(run).encode())
    sizes = {table: [file.stat().st_size for file in (place / table).iterdir()] for table in ("results", "memory")}
    return {
        "parts": len(sizes["results"]),
        "results_bytes": sum(sizes["results"]),
        "memory_bytes": sum(sizes["memory"]),
    }


def _commit(place: Path, run_id: str, number: int, columns: dict[str, Any]) -> None:
    """The files of one part, `PART_S` seconds after the one before."""
    began = datetime.strptime(run_id[:8], "%Y%m%d").replace(tzinfo=UTC)
    count = len(columns["doc_id"])
    columns["committed_at"] = [began + timedelta(seconds=PART_S * (number + 1))] * count
    schemas: dict[Table, pa.Schema] = {"memory": memory_schema({}), "results": result_schema([], {})}
    for table, schema in schemas.items():
        arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in schema]
        content = encode_part(pa.table(arrays, schema=schema), "parquet")
        write_whole(f"{folder(str(place), table)}/{part_name(run_id, number, 'parquet')}", content)


def _texts(rng: np.random.Generator, numbers: range, run_id: str, words: list[str]) -> dict[str, Any]:
    """Ids, answers of 120 to 240 words, and what failed."""
    hashes = rng.bytes(32 * len(numbers)).hex()
    begins, lengths = rng.integers(0, len(words) - 240, len(numbers)), rng.integers(120, 240, len(numbers))
    answers = [" ".join(words[begin : begin + length]) for begin, length in zip(begins, lengths, strict=True)]
    failed = [run_id == FIRST_RUN and number % FAILED_EVERY == 0 for number in numbers]
    errors = [f"no JSON at character {number}" for number in numbers]
    return {
        "doc_id": [f"archive/{number // 10_000:05d}/document-{number:09d}" for number in numbers],
        "content_sha256": [hashes[64 * place : 64 * place + 64] for place in range(len(numbers))],
        "fingerprint": ["f" * 64] * len(numbers),
        "run_id": [run_id] * len(numbers),
        "status": ["failed" if bad else "ok" for bad in failed],
        "output": [None if bad else answer for bad, answer in zip(failed, answers, strict=True)],
        "error_type": ["DocumentError" if bad else None for bad in failed],
        "error_message": [error if bad else None for bad, error in zip(failed, errors, strict=True)],
        "finish_reason": ["stop"] * len(numbers),
        "policy": [POLICY] * len(numbers),
        "actor": ["10.0.0.17:31337"] * len(numbers),
    }


def _figures(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Figures of both tables; prompts are of 50 to 120,000 tokens, log-normal around 4,000."""
    prompts = np.minimum(rng.lognormal(8.3, 1.0, count), 120_000).astype(np.int64) + 50
    answers = rng.integers(160, 400, count)
    entries = (prompts + answers) * KV_HEADS
    kept = np.clip(rng.normal(0.25, 0.08, count), 0.02, 1.0)[:, None] * rng.uniform(0.5, 1.5, (count, LAYERS))
    per_layer = (kept * entries[:, None]).astype(np.int64) + 1
    full, final = entries * LAYERS * ENTRY_BYTES, per_layer.sum(axis=1) * ENTRY_BYTES
    return {
        "prompt_tokens": prompts,
        "output_tokens": answers,
        "pieces": np.ones(count, np.int64),
        "queue_s": rng.exponential(20.0, count),
        "prefill_s": prompts / 9000,
        "decode_s": answers / 40,
        "kv_bytes_full": full,
        "kv_bytes_after_prefill": final,
        "kv_bytes_peak": (1.3 * final).astype(np.int64),
        "kv_bytes_final": final,
        "kept_ratio": final / full,
        "kept_per_layer": list(per_layer),
        "evicted_entries": (full - final) // ENTRY_BYTES,
        "evicted_attention_mass": rng.beta(1, 60, count),
        "preemptions": rng.poisson(0.01, count),
        "num_layers": np.full(count, LAYERS),
        "num_kv_heads": np.full(count, KV_HEADS),
    }


def draw(place: Path, compare: bool = False) -> dict[str, Any]:
    """`corm-batch report OUTPUT --html FILE`, with `--compare OUTPUT` against itself if asked for."""
    page = place / "report.html"
    with redirect_stdout(io.StringIO()):
        app(["report", str(place), "--html", str(page), *(["--compare", str(place)] * compare)], standalone_mode=False)
    return {"page_bytes": page.stat().st_size}


def read(place: Path, memory: bool = False) -> dict[str, Any]:
    """`read_results(OUTPUT)`: how many rows it gives, and how large that table is."""
    table = read_results(str(place), memory=memory)
    return {"rows": table.num_rows, "table_mib": table.nbytes >> 20}


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=ROOT / "infra/measure/results/report.json")
    arguments = parser.parse_args()
    record = begin_record("report", documents=arguments.documents)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        record["build"] = measured(build, place, arguments.documents)
        record["report"] = measured(draw, place)
        record["report_compare"] = measured(draw, place, True)
        record["read_results"] = measured(read, place)
        record["read_results_memory"] = measured(read, place, True)
    write_record(record, arguments.output)


if __name__ == "__main__":
    main()
