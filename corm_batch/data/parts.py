"""Parts: the files a job publishes, each written whole. Knows nothing of what their rows mean.

A part that can be fetched and not be read is damaged; page checksums find what changed on a disk. Whoever reads rows
refuses it, because the row before of the same document would be taken for its newest; a run answers its documents
again. It stays where it is until somebody deletes it.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Literal, TypeVar

import pyarrow as pa
from pyarrow import parquet

from corm_batch.data.filesystem import list_files, open_file, read_whole, reading
from corm_batch.data.formats.base import Format
from corm_batch.errors import DamagedPartError, SourceError

T = TypeVar("T")
Table = Literal["results", "memory"]
_REMEDIES: dict[Table, str] = {
    "results": "Delete it: the next run of the job answers its documents again",
    "memory": "Delete it: nothing but what its documents' caches took is lost. If the part of the same name in "
    "results/ goes too, the next run of the job makes both again",
}
_READ_AT_ONCE = 16  # a part on S3 is a few requests, each of which takes its time


def folder(output_uri: str, name: Table | Literal["_job"]) -> str:
    """Where the parts of one table lie, or what the job says of itself."""
    return f"{output_uri.rstrip('/')}/{name}"


def part_name(run_id: str, number: int, part_format: str) -> str:
    """Names sort by run, then by number."""
    return f"part-{run_id}-{number:06d}.{part_format}"


def encode_part(table: pa.Table, part_format: str) -> bytes:
    """The whole file in memory, zstd-compressed."""
    sink = io.BytesIO()
    Format.registered()[part_format]().write([table], table.schema, sink)
    return sink.getvalue()


def list_parts(folder_uri: str) -> list[str]:
    """URIs of the committed parts, oldest first; none when nothing was committed.

    Raises:
        SourceError: the folder cannot be listed.
    """
    uris = list_files(f"{folder_uri}/", (".parquet", ".arrow"))
    return [uri for uri in uris if uri.rpartition("/")[2].startswith("part-")]


def read_part(uri: str, columns: list[str] | None = None, *, without: Collection[str] = ()) -> pa.Table:
    """The rows of one part; only those of `columns` that it has, where given, and none of `without`.

    Raises:
        DamagedPartError: it can be fetched, and is not whole.
        SourceError: it cannot be fetched.
    """
    try:
        with reading(uri), open_file(uri) as file:
            return _decode(uri, file, columns, without)
    except SourceError:
        content = read_whole(uri)
    try:
        return _decode(uri, io.BytesIO(content), columns, without)
    except (pa.ArrowException, OSError) as error:
        remedy = _REMEDIES["memory" if uri.rpartition("/")[0].endswith("/memory") else "results"]
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise DamagedPartError(f"{uri}: damaged: {reason}. {remedy}") from error


def part_schema(uri: str) -> pa.Schema:
    """The columns of one part, and what it says of its run.

    Raises:
        SourceError: it cannot be read.
    """
    with reading(uri), open_file(uri) as file:
        return parquet.read_schema(file) if uri.endswith(".parquet") else pa.ipc.open_file(file).schema


def _decode(uri: str, file: BinaryIO, columns: list[str] | None, without: Collection[str]) -> pa.Table:
    if uri.endswith(".parquet"):
        whole = parquet.ParquetFile(file, page_checksum_verification=True)
        found = _chosen(whole.schema_arrow.names, columns, without)
        return whole.read(columns=found)
    part = pa.ipc.open_file(file)
    found = _chosen(part.schema.names, columns, without)
    wanted = pa.ipc.IpcReadOptions(included_fields=[part.schema.names.index(name) for name in found])
    return pa.ipc.open_file(file, options=wanted).read_all().select(found)


def _chosen(names: Sequence[str], columns: list[str] | None, without: Collection[str]) -> list[str]:
    return [name for name in (names if columns is None else columns) if name in names and name not in without]


def read_fields(uri: str, fields: Sequence[pa.Field]) -> pa.Table:
    """These columns of one part, of their types; what an earlier version did not write yet is null.

    Raises:
        DamagedPartError: it can be fetched, and is not whole.
        SourceError: it cannot be fetched, or is no part of a job: it lacks what is in every part, or has it otherwise.
    """
    part = read_part(uri, [field.name for field in fields])
    if missing := [field.name for field in fields if not field.nullable and field.name not in part.column_names]:
        raise SourceError(f"{uri}: no part of a job, for it has no column {missing[0]!r}; move it away")
    columns = [
        part[field.name] if field.name in part.column_names else pa.nulls(part.num_rows, field.type) for field in fields
    ]
    with reading(uri):
        found = pa.table(columns, names=[field.name for field in fields], metadata=part.schema.metadata)
        return found.cast(pa.schema(fields, metadata=part.schema.metadata))


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
