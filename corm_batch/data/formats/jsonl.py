"""JSON Lines: one object a row, in UTF-8."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa

from corm_batch.data.formats.base import Format
from corm_batch.data.formats.json_values import json_text, values_of


class Jsonl(Format, name="jsonl"):
    """JSON Lines, all columns in every line."""

    suffixes = (".jsonl", ".ndjson")
    is_text = True

    def write(self, pieces: Iterable[pa.Table], schema: pa.Schema, sink: BinaryIO) -> None:
        """Write a line for each row of `pieces`."""
        for piece in pieces:
            columns = [values_of(column) for column in piece.columns]
            for values in zip(*columns, strict=True):
                sink.write(json_text(dict(zip(schema.names, values, strict=True))).encode() + b"\n")
