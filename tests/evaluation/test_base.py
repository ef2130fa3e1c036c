"""What suites read: Parquet files with the columns they need, or an error that says what is there."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Suite, rows


def test_suites_are_found_by_name_and_their_fields_are_checked():
    assert list(Suite.registered()) == ["key_value", "lines", "lists", "needles", "squad", "summaries"]
    with pytest.raises(ValueError, match=r"suite\.haystack: Field required"):
        Suite.from_spec({"name": "needles"})
    with pytest.raises(ValueError, match="no suite is called 'needle'; there are:\n  key_value: The value of one"):
        Suite.from_spec({"name": "needle"})


def test_rows_have_the_asked_columns(tmp_path):
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), tmp_path / "t.parquet")
    assert rows(str(tmp_path / "t.parquet"), ["b"]) == [{"b": "x"}, {"b": "y"}]
    with pytest.raises(SourceError, match=r"t.parquet: no column c; there are: a, b"):
        rows(str(tmp_path / "t.parquet"), ["b", "c"])


def test_a_file_that_is_missing_or_no_parquet_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"no Parquet at all")
    for name in ("t.parquet", "other.parquet"):
        with pytest.raises(SourceError, match=name):
            rows(str(tmp_path / name), ["a"])
