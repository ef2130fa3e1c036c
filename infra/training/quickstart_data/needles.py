"""Make tests/jobs/needles.parquet: retrieval cases over unseen books, ready to ask, that fit the reference model.

    python -m infra.training.quickstart_data.needles CASES.jsonl.zst HAYSTACK.parquet tests/jobs/needles.parquet

A case names a haystack, a start, a length in characters, the sentences to plant and their depths (0..1, moved on to the
next sentence end). Several answers are expected with commas between them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from transformers import AutoTokenizer

from infra.training.quickstart_data.build import SCHEMA, plant

MODEL = Path(__file__).parents[3] / "jobs/quickstart/model"
MAX_TOKENS = 8_192 - 64  # of text and question; the rest is for the answer and the marks between them


def main(cases: Path, haystacks: Path, target: Path) -> None:
    """Write every case whose text and question are at most `MAX_TOKENS` long."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL, model_max_length=10**9)
    books = {row["doc_id"]: row for row in pq.read_table(haystacks).to_pylist()}
    rows = []
    for case in map(json.loads, zstandard.open(cases, "rt", encoding="utf-8")):
        book = books[case["haystack_doc_id"]]
        stretch = book["text"][case["start_char"] : case["start_char"] + case["haystack_chars"]]
        row = {name: book[name] for name in ("source", "license", "title")} | {
            "doc_id": case["case_id"],
            "text": plant(stretch, case["needles"], case["depths"]),
            "question": case["question"],
            "expected": ", ".join(case["answers"]),
            "kind": case["type"],
        }
        num_tokens = len(tokenizer(row["text"] + row["question"], add_special_tokens=False)["input_ids"])
        if num_tokens <= MAX_TOKENS:
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), target, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
