import pyarrow as pa

from corm_batch.data.carried import carried_fields, clash
from corm_batch.data.sources.base import Split


def test_a_column_has_a_type_that_holds_what_all_files_have():
    splits = [
        Split("a", 0, kinds={"n": pa.int32(), "mixed": pa.int64(), "null": pa.null()}),
        Split("b", 0, kinds={"n": pa.float64(), "mixed": pa.list_(pa.int64())}),
        Split("broken", 0, 0, "no Parquet"),
    ]
    fields = carried_fields(["n", "mixed", "null", "unknown"], splits)
    assert [(field.name, field.type) for field in fields] == [
        ("n", pa.float64()),
        *((name, pa.string()) for name in ("mixed", "null", "unknown")),
    ]
    assert fields[0].metadata[b"description"] == b"n of the source"


def test_names_that_results_have_already_are_refused():
    own = [pa.field("title", pa.string())]
    assert clash(["url", "meta.title"], own) is None
    assert clash(["url", "url"], own) == "url: named twice"
    assert clash(["url", "title", "output", "kv_bytes_full", "_source_row"], own) == (
        "title: the results of this task have a column of that name; "
        "output: every results table has a column of that name; "
        "kv_bytes_full: every memory table has a column of that name; "
        "_source_row: every results table has a column of that name; rename it in the source"
    )
