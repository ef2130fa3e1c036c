"""Make the evaluation data of the reference model: public texts its training never saw, one Parquet file a purpose.

    python -m infra.training.evaluation.build SOURCE_FOLDER

SOURCE_FOLDER holds haystack.parquet, ppl_books.parquet and documents.parquet (doc_id, title, source, license, text, the
last also kind, of which the meetings are taken), and one JSON object a
line in squad_dev_500.jsonl.zst (case_id, title, context, question, answers) and summaries.jsonl.zst (case_id, task,
document, prompt, answers). Every row keeps where it is from and its licence, which some of the texts ask for.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

HERE = Path(__file__).parent
BOOKS = {"haystack": "haystack.parquet", "perplexity": "ppl_books.parquet"}
ATTRIBUTION = ("source", "license")

Row = dict[str, Any]


def read_lines(path: Path) -> list[Row]:
    """The JSON objects of a compressed file, one a line."""
    with path.open("rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line) for line in text]


def read_books(folder: Path) -> list[Row]:
    """The books of both kinds, each row with its kind."""
    return [row | {"kind": kind} for kind, name in BOOKS.items() for row in pq.read_table(folder / name).to_pylist()]


def write(name: str, rows: Iterable[Row], columns: Iterable[str]) -> None:
    """The columns in this order; `answers` is a list of strings, every other column a string."""
    fields = [(column, pa.list_(pa.string()) if column == "answers" else pa.string()) for column in columns]
    path = HERE / f"{name}.parquet"
    table = pa.Table.from_pylist(list(rows), schema=pa.schema(fields))
    pq.write_table(table, path, compression="zstd", compression_level=19)
    print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size / 2**10:.0f} KiB")


def main(folder: Path) -> None:
    """Write the four files beside this one."""
    squad, summaries = (read_lines(folder / f"{name}.jsonl.zst") for name in ("squad_dev_500", "summaries"))
    write("books", read_books(folder), ("doc_id", "kind", "title", *ATTRIBUTION, "text"))
    meetings = [row for row in pq.read_table(folder / "documents.parquet").to_pylist() if row["kind"] == "meeting"]
    write("meetings", meetings, ("doc_id", "kind", "title", *ATTRIBUTION, "text"))
    write("squad", squad, ("case_id", "title", "context", "question", "answers", *ATTRIBUTION))
    write("summaries", summaries, ("case_id", "task", "document", "prompt", "answers", *ATTRIBUTION))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
