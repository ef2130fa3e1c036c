"""Arrow IPC files, compressed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa

from corm_batch.data.formats.base import Format


class Arrow(Format, name="arrow"):
    """Arrow IPC."""

    suffixes = (".arrow", ".feather")
    keeps_all = True

    def write(self, pieces: Iterable[pa.Table], schema: pa.Schema, sink: BinaryIO) -> None:
        """Write `pieces`, each as record batches of its own."""
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            for piece in pieces:
                writer.write_table(piece)
