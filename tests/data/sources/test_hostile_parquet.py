"""Parquet files that somebody damaged, on purpose or not: a SourceError or documents, in bounded memory, no crash."""

import os
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.data.document import Document
from corm_batch.data.sources.parquet import ParquetSource
from corm_batch.errors import SourceError, SpecError

TEXTS = [f"text {number} " * (number % 7) for number in range(200)]


def encoded(**options):
    """A file of 200 documents in four row groups."""
    sink = pa.BufferOutputStream()
    table = pa.table({"doc_id": [f"{number}" for number in range(200)], "text": TEXTS})
    pq.write_table(table, sink, row_group_size=50, **options)
    return sink.getvalue().to_pybytes()


WHOLE = [
    encoded(compression="zstd"),
    encoded(compression="none", use_dictionary=False),
    encoded(data_page_version="2.0"),
]


def read_all(path):
    source = ParquetSource(uri=str(path))
    return [document for split in source.splits() for document in source.read(split, ())]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=0, max_size=4),
    st.booleans(),
    st.none() | st.integers(0, 2**20),
)
def test_a_damaged_file_gives_documents_or_a_source_error(tmp_path_factory, content, flips, at_the_end, length):
    damaged = bytearray(content)
    for place, bits in flips:
        place %= min(len(damaged), 1500)  # most of what makes readers fall is in the footer
        damaged[-1 - place if at_the_end else place] ^= bits
    if length is not None:
        del damaged[length % len(damaged) :]
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    path.write_bytes(damaged)
    try:
        documents = read_all(path)
    except (SourceError, SpecError):  # the latter when a name in the footer is another one now
        return
    for document in documents:
        assert isinstance(document, Document)
        assert (document.text is None) == (document.problem is not None)


@pytest.mark.parametrize(
    "other",
    [
        {"doc_id": ["x"], "body": ["x"]},
        {"doc_id": ["x"], "text": [{"nested": "x"}]},
        {"doc_id": [["x"]], "text": ["x"]},
        {"doc_id": [True], "text": ["x"]},
    ],
)
def test_the_one_file_of_many_with_another_schema_is_named_before_anything_is_read(other, tmp_path):
    odd = random.randrange(60)
    for number in range(60):
        table = other if number == odd else {"doc_id": [f"{number}"], "text": ["fine"]}
        pq.write_table(pa.table(table), tmp_path / f"{number:02d}.parquet")
    splits = ParquetSource(uri=str(tmp_path)).splits()
    (named,) = [split for split in splits if split.error is not None]
    assert (len(splits), named.uri) == (60, f"{tmp_path}/{odd:02d}.parquet")


def bomb(path, rows, size):
    """Rows that all mean one large text: kilobytes on the disk, gigabytes as documents."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["A" * size]))
    table = pa.table({"doc_id": [f"{number}" for number in range(rows)], "text": text})
    pq.write_table(table, path, compression="zstd", store_schema=False)


READ = """
import pathlib, re, sys
from corm_batch.data.sources.parquet import ParquetSource
source = ParquetSource(uri=sys.argv[1])
print(sum(len(document.text) for split in source.splits() for document in source.read(split, ())))
# Not getrusage: its peak counts the process this one was forked from.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024)
"""


def test_a_dictionary_bomb_is_read_in_bounded_memory(tmp_path):
    path = tmp_path / "bomb.parquet"
    bomb(path, 32, 32 << 20)
    assert os.path.getsize(path) < 50_000
    command = [sys.executable, "-c", READ, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    num_chars, peak_bytes = map(int, printed.split())
    assert num_chars == 32 * (32 << 20)
    assert peak_bytes < 1 << 29
