"""Make tests/jobs/needles.parquet: retrieval cases over unseen books, ready to ask, that fit the reference model.

    python infra/quickstart_data/needles.py CASES.jsonl.zst HAYSTACK.parquet tests/jobs/needles.parquet

A case names a haystack, a start, a length in characters, the sentences to plant and their depths (0..1, moved on to the
next sentence end). `expected` holds the answer; a case that asks for several values holds them joined by ", ".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from build import SCHEMA, SENTENCE_END
from transformers import AutoTokenizer

MODEL = Path(__file__).parents[2] / "jobs/quickstart/model"
MAX_PROMPT_TOKENS = 8_192 - 48
"""Leaves room for the longest answer: four numbers of seven digits."""


def assemble(haystack: str, case: dict[str, Any]) -> str:
    """The case's stretch of the haystack with every needle on a line of its own."""
    text = haystack[case["start_char"] : case["start_char"] + case["haystack_chars"]]
    pieces, last = [], 0
    for depth, needle in sorted(zip(case["depths"], case["needles"], strict=True)):
        match = SENTENCE_END.search(text, int(depth * len(text))) if depth else None
        end = match.end() if match else int(depth > 0) * len(text)
        pieces += [text[last:end], f"\n{needle}\n"]
        last = end
    return "".join([*pieces, text[last:]])


def main(cases: Path, haystacks: Path, target: Path) -> None:
    """Write every case whose prompt is at most `MAX_PROMPT_TOKENS` long."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL, model_max_length=10**9)
    books = {row["doc_id"]: row for row in pq.read_table(haystacks).to_pylist()}
    rows = []
    for case in map(json.loads, zstandard.open(cases, "rt", encoding="utf-8")):
        book = books[case["haystack_doc_id"]]
        text = assemble(book["text"], case)
        if len(tokenizer(text + case["question"], add_special_tokens=False)["input_ids"]) + 4 > MAX_PROMPT_TOKENS:
            continue
        row = {name: book[name] for name in ("source", "license", "title")}
        rows.append(row | {"doc_id": case["case_id"], "text": text, "question": case["question"],
                           "expected": ", ".join(case["answers"]), "kind": case["type"]})
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), target, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
