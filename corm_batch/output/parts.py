"""Parts: the files a job publishes, each written whole. Knows nothing of what their rows mean."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, TypeVar

import pyarrow as pa
from pyarrow import parquet

from corm_batch.data.filesystem import list_files, open_file, reading

T = TypeVar("T")
PartFormat = Literal["parquet", "arrow"]
Table = Literal["results", "memory"]
_READ_AT_ONCE = 16  # a part on S3 is a few requests, each of which takes its time


def folder(output_uri: str, table: Table) -> str:
    """Where the parts of one table lie."""
    return f"{output_uri.rstrip('/')}/{table}"


def part_name(run_id: str, number: int, part_format: PartFormat) -> str:
    """Names sort by run, then by number."""
    return f"part-{run_id}-{number:06d}.{part_format}"


def encode_part(table: pa.Table, part_format: PartFormat) -> bytes:
    """The whole file in memory, zstd-compressed."""
    sink = pa.BufferOutputStream()
    if part_format == "parquet":
        parquet.write_table(table, sink, compression="zstd")
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def list_parts(folder_uri: str) -> list[str]:
    """URIs of the committed parts, oldest first; none when nothing was committed.

    Raises:
        SourceError: the folder cannot be listed.
    """
    return [uri for uri in list_files(f"{folder_uri}/", (".parquet", ".arrow")) if "/part-" in uri]


def read_part(uri: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of one part; only `columns` where given.

    Raises:
        SourceError: the part cannot be read.
    """
    with reading(uri), open_file(uri) as file:
        if uri.endswith(".parquet"):
            return parquet.ParquetFile(file).read(columns=columns)
        part = pa.ipc.open_file(file)
        if columns is not None:
            wanted = [part.schema.names.index(name) for name in columns if name in part.schema.names]
            part = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted))
        table = part.read_all()
    return table.select(columns) if columns is not None else table


def read_ahead(read: Callable[[str], T], uris: Iterable[str]) -> Iterator[T]:
    """What `read` gives for each of `uris`, in their order; a few are read at once, whatever their number.

    Raises:
        SourceError: from `read`.
    """
    ahead: deque[Future[T]] = deque()
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        try:
            for uri in uris:
                ahead.append(pool.submit(read, uri))
                if len(ahead) == _READ_AT_ONCE:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
