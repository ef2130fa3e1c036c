"""Parquet files, compressed, with a checksum a page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa
from pyarrow import parquet

from corm_batch.data.formats.base import Format


class Parquet(Format, name="parquet"):
    """Parquet."""

    suffixes = (".parquet", ".pq")
    keeps_all = True

    def write(self, pieces: Iterable[pa.Table], schema: pa.Schema, sink: BinaryIO) -> None:
        """Write `pieces`, each as row groups of its own."""
        with parquet.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
            for piece in pieces:
                writer.write_table(piece)
