import dataclasses
import io

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.schema import MEMORY_FIELDS, RESULT_FIELDS, RESULT_NAMES, column, memory_schema, result_schema
from corm_batch.engine.figures import MemoryStats

UNITS = {b"bytes", b"seconds", b"tokens", b"entries", b"nats", b"ratio"}


def test_every_column_is_described_and_every_measure_has_its_unit():
    for field in (*RESULT_FIELDS, *MEMORY_FIELDS):
        assert field.metadata[b"description"]
        assert field.metadata.get(b"unit", b"bytes") in UNITS
        for part, unit in (("bytes", b"bytes"), ("_s", b"seconds"), ("_tokens", b"tokens"), ("ratio", b"ratio")):
            if field.name.endswith(part) or (field.name.startswith("kv_bytes") and part == "bytes"):
                assert field.metadata[b"unit"] == unit, field.name


def test_memory_table_has_every_figure_of_the_engine():
    figures = {figure.name for figure in dataclasses.fields(MemoryStats)}
    assert figures <= {field.name for field in MEMORY_FIELDS}
    row = dataclasses.asdict(MemoryStats(kept_per_layer=(3, 4))) | {"doc_id": "a", "run_id": "r"}
    table = pa.Table.from_pylist([row], schema=memory_schema({}))
    assert table["kept_per_layer"].to_pylist() == [[3, 4]]


def test_metadata_and_units_survive_parquet():
    task_field = column("title", pa.string(), "of the paper")
    schema = result_schema([task_field], {"spec": "name: papers"})
    file = io.BytesIO()
    pq.write_table(schema.empty_table(), file)
    read = pq.read_schema(file)
    assert read.names == [field.name for field in RESULT_FIELDS] + ["title"]
    assert read.metadata[b"spec"] == b"name: papers"
    assert read.metadata[b"corm_batch.schema_version"] == memory_schema({}).metadata[b"corm_batch.schema_version"]
    assert read.field("queue_s").metadata[b"unit"] == b"seconds"
    assert read.field("committed_at").type == pa.timestamp("us", tz="UTC")
    assert frozenset(read.names) - RESULT_NAMES == {"title"}


def test_failed_rows_have_room_in_the_same_schema():
    failed = {"doc_id", "content_sha256", "fingerprint", "run_id", "status", "committed_at"}
    assert {field.name for field in RESULT_FIELDS if not field.nullable} == failed
