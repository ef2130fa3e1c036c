"""Export: the newest rows of an output as one file, in the order of the source. Few of them are in memory at a time.

Knows nothing of kinds of files.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, cast

import zstandard

from corm_batch.data.filesystem import list_files, read_whole, write_whole
from corm_batch.data.formats.base import Format
from corm_batch.data.newest_in_order import NewestInOrder
from corm_batch.data.parts import folder, list_parts
from corm_batch.data.published import published
from corm_batch.data.sources.packed import PACKED
from corm_batch.data.uri import resolve_uri
from corm_batch.errors import SpecError


def format_of(target: str, name: str | None = None) -> Format:
    """The format of a file: that of this name, or else what the file's name says.

    Raises:
        SpecError: there is none of that name, or the file's name says none.
    """
    known = Format.registered()
    if name is not None:
        return Format.from_spec({"name": name})
    plain = _unpacked(target.lower())
    ends = {suffix: kind for kind in known.values() for suffix in kind.suffixes}
    for suffix in sorted(filter(plain.endswith, ends), key=len, reverse=True):
        if ends[suffix].is_text or plain == target.lower():
            return ends[suffix]()
    suffixes = ", ".join(ends)
    raise SpecError(f"{target}: the name of a file to write ends with one of {suffixes}; text also with .gz or .zst")


def export_rows(output_uri: str, target: str, kind: Format, *, memory: bool = False) -> int:
    """Write the newest row, or rows, of every document to the file `target`; how many there were.

    They lie as in the source: by file, then by row; rows of which no part tells come last, by their documents' ids. A
    column that has several types in the parts has one that holds all its values, text where nothing narrower does.

    Args:
        output_uri: where the job wrote.
        target: a file, local or s3://; one that is there is replaced once the new one is whole.
        kind: what to write.
        memory: add the columns of the memory table.

    Raises:
        SpecError: nothing is committed there, or the format cannot hold such rows.
        SourceError: a part cannot be read.
        OutputError: the file cannot be written.
    """
    rows = NewestInOrder(resolve_uri(output_uri), memory=memory)
    if problem := kind.find_problem(rows.schema.names):
        raise SpecError(f"{output_uri}: {problem}")
    with published(resolve_uri(target)) as file, _packing(target, file, kind) as sink:
        kind.write(rows, rows.schema, sink)
    return rows.count


def gather_rows(output_uri: str, target: str) -> int | None:
    """All rows of a job in one file, as `export_rows`; None where it holds those of every part already.

    A run that was ended may have committed parts that are in no file: up to which one this was written is kept beside
    the records of runs.
    """
    root = resolve_uri(output_uri).rstrip("/")
    newest, told = list_parts(folder(root, "results"))[-1], f"{root}/_job/gathered"
    holds = "\n".join(uri.rpartition("/")[2] for uri in (target, newest)).encode()
    if list_files(target) and list_files(told) and read_whole(told) == holds:
        return None
    count = export_rows(output_uri, target, format_of(target))
    write_whole(told, holds)
    return count


@contextmanager
def _packing(target: str, file: BinaryIO, kind: Format) -> Iterator[BinaryIO]:
    """What packs what is written, as the name of the file says."""
    with ExitStack() as stack:
        if kind.is_text and target.lower().endswith(".gz"):
            yield cast(BinaryIO, stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0)))
        elif kind.is_text and target.lower().endswith(".zst"):
            yield stack.enter_context(zstandard.ZstdCompressor().stream_writer(file, closefd=False))
        else:
            yield file


def _unpacked(name: str) -> str:
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return name
