import random
import time

import pyarrow as pa
import pytest

from corm_batch.data.filesystem import write_whole
from corm_batch.data.parts import encode_part, folder, list_parts, part_name, read_ahead, read_part
from corm_batch.errors import SourceError

TABLE = pa.table({"a": [1, 2], "b": ["x", None]}, schema=pa.schema({"a": pa.int64(), "b": pa.string()}, {"k": "v"}))


@pytest.mark.parametrize("part_format", ["parquet", "arrow"])
def test_part_comes_back_whole(place, part_format):
    uri = f"{folder(place, 'results')}/{part_name('run', 0, part_format)}"
    write_whole(uri, encode_part(TABLE, part_format))
    assert read_part(uri).equals(TABLE)
    assert read_part(uri).schema.metadata[b"k"] == b"v"
    assert read_part(uri, ["b"]).to_pydict() == {"b": ["x", None]}


def test_parts_are_listed_oldest_first(place):
    results = folder(place, "results")
    assert list_parts(results) == []
    names = [part_name("20260102", 0, "arrow"), part_name("20260101", 10, "parquet"), part_name("20260101", 9, "arrow")]
    for name in [*names, "other.parquet"]:
        write_whole(f"{results}/{name}", b"")
    assert [uri.rpartition("/")[2] for uri in list_parts(results)] == sorted(names)


@pytest.mark.parametrize("part_format", ["parquet", "arrow"])
def test_broken_part_is_named(tmp_path, part_format):
    uri = f"{tmp_path}/{part_name('run', 0, part_format)}"
    write_whole(uri, encode_part(TABLE, part_format)[:100])
    with pytest.raises(SourceError, match=part_name("run", 0, part_format)):
        read_part(uri)


def test_reading_ahead_keeps_the_order_and_goes_no_further_than_it_must():
    started = []

    def read(uri):
        started.append(uri)
        time.sleep(random.random() / 100)
        return uri.upper()

    uris = [f"part-{number}" for number in range(100)]
    results = read_ahead(read, iter(uris))
    assert next(results) == "PART-0"
    assert len(started) <= 16
    assert list(results) == [uri.upper() for uri in uris[1:]]
    assert list(read_ahead(read, [])) == []


def test_reading_ahead_ends_with_the_first_fault():
    started = []

    def read(uri):
        started.append(uri)
        raise SourceError(f"{uri}: broken")

    with pytest.raises(SourceError, match=r"^1: broken"):
        list(read_ahead(read, map(str, range(1, 100))))
    assert len(started) <= 16
