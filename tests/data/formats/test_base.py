"""What every format has to hold, and what each makes of values that it has no type for."""

import datetime
import io
import json
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from pydantic import TypeAdapter

from corm_batch.data.formats.base import Format, FormatName

UTC = datetime.UTC
ROWS = pa.table(
    {
        "text": ["a, b", "", None, 'say "hi"\r\nand\n"bye"', " caf\u00e9\x00"],
        "whole": [1, None, -(2**62), 0, 7],
        "real": [1.5, float("nan"), None, float("inf"), 1e300],
        "flag": [True, None, False, True, False],
        "when": pa.array([1_500_000_000, None, 0, -1, 2**55], pa.timestamp("us", "UTC")),
        "nano": pa.array([1, None, 2, 3, 4], pa.timestamp("ns")),
        "day": pa.array([1, None, 2, 3, 4], pa.date32()),
        "exact": pa.array([Decimal("1.50"), None, *[Decimal(0)] * 3], pa.decimal128(9, 2)),
        "bytes": [b"\xff\x00", None, b"", b"a", b"b"],
        "list": [["a", None, "caf\u00e9"], None, [], ["b"], ["c"]],
        "object": [{"n": 1, "t": datetime.datetime(2020, 1, 2, tzinfo=UTC)}, None, {"n": None, "t": None}, None, None],
        "id": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID(int=1).bytes, *[None] * 4], pa.binary(16))),
        "nothing": pa.nulls(5),
    }
).replace_schema_metadata({"made": "here"})


def written(name, pieces, schema=ROWS.schema):
    sink = io.BytesIO()
    Format.from_spec({"name": name}).write(pieces, schema, sink)
    return sink.getvalue()


def test_formats_are_found_by_name():
    assert list(Format.registered()) == ["arrow", "csv", "jsonl", "openai_batch", "parquet"]
    assert {name for name, kind in Format.registered().items() if kind.keeps_all} == {"arrow", "parquet"}
    name = TypeAdapter(FormatName)
    assert (name.validate_python("csv"), name.json_schema()["enum"]) == ("csv", list(Format.registered()))
    with pytest.raises(ValueError, match="expected one of arrow, csv, jsonl, openai_batch, parquet"):
        name.validate_python("xml")


@pytest.mark.parametrize("name", ["parquet", "arrow"])
@pytest.mark.parametrize("sizes", [(5,), (2, 0, 3), ()])
def test_what_keeps_all_is_read_back_as_it_was(name, sizes):
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    content = io.BytesIO(written(name, [ROWS.slice(*place) for place in zip(starts, sizes, strict=True)]))
    found = parquet.read_table(content) if name == "parquet" else pa.ipc.open_file(content).read_all()
    assert found.schema.equals(ROWS.schema)
    assert found.schema.metadata[b"made"] == b"here"
    assert found.drop_columns("real").equals((ROWS if sizes else ROWS.slice(0, 0)).drop_columns("real"))
    assert str(found["real"].to_pylist()) == str(ROWS["real"].to_pylist() if sizes else [])


def test_json_lines():
    lines = written("jsonl", [ROWS.slice(0, 2), ROWS.slice(2)]).decode().split("\n")
    assert lines.pop() == ""
    first, second, third, fourth, last = map(json.loads, lines)
    assert list(first) == ROWS.column_names
    assert first == {
        **{"text": "a, b", "whole": 1, "real": 1.5, "flag": True, "when": "1970-01-01T00:25:00+00:00"},
        **{"nano": "1970-01-01 00:00:00.000000001", "day": "1970-01-02", "exact": "1.50", "bytes": "/wA="},
        **{"list": ["a", None, "caf\u00e9"], "object": {"n": 1, "t": "2020-01-02T00:00:00+00:00"}},
        **{"id": str(UUID(int=1)), "nothing": None},
    }
    assert set(second.values()) == {"", None}
    assert (third["real"], fourth["real"], third["list"], third["whole"]) == (None, None, [], -(2**62))
    assert (fourth["text"], last["text"]) == (ROWS["text"][3].as_py(), ROWS["text"][4].as_py())
    assert "caf\u00e9" in lines[0]
    assert "NaN" not in "".join(lines)


def test_csv():
    content = written("csv", [ROWS.slice(0, 2), ROWS.slice(2)])
    found = csv.read_csv(
        io.BytesIO(content),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    )
    assert content.startswith(b'"text","whole","real"')
    for name in ("text", "whole", "flag"):
        assert found[name].to_pylist() == ROWS[name].to_pylist()
    rows = found.drop_columns("nano").to_pylist()
    assert json.loads(rows[0]["list"]) == ["a", None, "caf\u00e9"]
    assert json.loads(rows[0]["object"]) == {"n": 1, "t": "2020-01-02T00:00:00+00:00"}
    assert [rows[0][name] for name in ("exact", "bytes", "id")] == [1.5, "/wA=", str(UUID(int=1))]
    assert b"1970-01-01 00:25:00.000000Z" in content
    assert b"1970-01-01 00:00:00.000000001" in content


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_no_rows(name):
    assert written(name, []) == (
        b",".join(b'"%s"' % one.encode() for one in ROWS.column_names) + b"\n" if name == "csv" else b""
    )


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_times_that_python_cannot_hold_are_text(name):
    days = pa.array([10_000_000], pa.date32())
    far = {
        "day": days,
        "days": pa.ListArray.from_arrays([0, 1], days),
        "of": pa.MapArray.from_arrays([0, 1], ["k"], days),
        "time": pa.array([10**12], pa.timestamp("s")),
        "long": pa.array([2**62], pa.duration("s")),
    }
    table = pa.table(far)
    line = written(name, [table], table.schema).decode()
    assert line.count("29349-01-26") == 3
    assert str(2**62) in line
