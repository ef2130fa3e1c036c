import pyarrow as pa
import pytest

from corm_batch.data.columns import Place, folder_columns, is_in, place_in, value_in


def test_folders_say_columns_as_text():
    uri = "s3://bucket/a=b=c/year=2020/month=07/lang=__HIVE_DEFAULT_PARTITION__/city=S%C3%A3o%2FPaulo/=x/plain/k=v.parquet"
    assert folder_columns(uri) == {"a": "b=c", "year": "2020", "month": "07", "lang": None, "city": "S\u00e3o/Paulo"}
    assert folder_columns("/in/year=2020/year=2021/empty=/a.parquet") == {"year": "2021", "empty": ""}
    assert folder_columns("a.parquet") == {}


ROW = {
    "a.b": "whole name",
    "a": {"b": "behind a dot", "c.d": 1, "e": None},
    "list": [{"b": 1}, None, {"c": 2}, "text"],
    "map": [("k", {"x": 5})],
    "none": None,
    "broken": ValueError("no"),
    "": {"b": 7},
}


def test_dots_lead_into_objects_and_lists_unless_a_column_is_called_so():
    names = ["a.b", "a.c.d", "a.e", "a.e.f", "list.b", "map.k", "map.z", "none.x"]
    assert [value_in(ROW, name) for name in names] == [
        *("whole name", 1, None, None, [1, None, None, None], {"x": 5}, None, None)
    ]
    assert value_in(ROW, "broken.x") is ROW["broken"]
    assert all(is_in(ROW, name) for name in ("a.b", "a.c.d", "a.e", "list.b", "map.k", "none", "broken.x"))
    missing = ["x", "a.x", "a.b.c", "a.e.f", "list.z", "map.z", "none.x", "x.y", ".b", "a.", "."]
    assert not any(is_in(ROW, name) for name in missing)
    assert [value_in(ROW, name) for name in missing] == [None] * len(missing)


def test_a_schema_says_where_a_value_is_and_its_type():
    inner = pa.struct([("b", pa.int32()), ("c.d", pa.struct([("x", pa.date32())]))])
    schema = pa.schema(
        [
            ("a.b", pa.bool_()),
            ("a", inner),
            ("list", pa.large_list(pa.struct([("b", pa.string())]))),
            ("map", pa.map_(pa.string(), pa.float32())),
            ("twice", pa.int8()),
            ("twice", pa.struct([("x", pa.int8())])),
        ]
    )
    assert place_in(schema, "a.b") == Place("a.b", "a.b", pa.bool_())
    assert place_in(schema, "a") == Place("a", "a", inner)
    assert place_in(schema, "a.c.d.x") == Place("a", "a.c.d.x", pa.date32())
    assert place_in(schema, "list.b") == Place("list", "list", pa.list_(pa.string()))
    assert place_in(schema, "map.any key") == Place("map", "map", pa.float32())
    ints, maps = pa.map_(pa.int64(), pa.string()), pa.map_(pa.string(), inner)
    more = pa.schema([("ints", ints), ("maps", maps), ("list", pa.list_(maps)), ("deep", pa.list_(pa.list_(inner)))])
    kinds = [place_in(more, name).kind for name in ("maps.k.b", "maps.k", "list.k.b", "deep.b")]
    assert kinds == [pa.int32(), inner, pa.list_(pa.int32()), pa.list_(pa.list_(pa.int32()))]
    with pytest.raises(KeyError):
        place_in(more, "ints.1")
    for missing in ("x", "a.x", "a.b.x", "list.x", "twice", "twice.x", "a.", ""):
        with pytest.raises(KeyError):
            place_in(schema, missing)


def test_dots_lead_into_maps_and_lists_of_lists():
    item = pa.struct([("b", pa.int32())])
    maps = pa.map_(pa.string(), item)
    schema = pa.schema([("m", maps), ("list", pa.list_(maps)), ("deep", pa.list_(pa.list_(item)))])
    row = {"m": [("k", {"b": 1})], "list": [[("k", {"b": 2})], [], None], "deep": [[{"b": 3}], [], None]}
    empty = {"m": [], "list": [], "deep": []}

    def found(name, row):
        return place_in(schema, name).value_in(row, name)

    assert [found(name, row) for name in ("m.k.b", "m.k", "list.k.b", "deep.b")] == [
        *(1, {"b": 1}, [2, None, None], [[3], [], None])
    ]
    assert [found(name, empty) for name in ("m.k.b", "m.k", "list.k.b", "deep.b", "m")] == [None, None, [], [], []]
    assert value_in({"m": [("a", 1, 2)], "n": [([1], 2)]}, "m.a") is None
    assert value_in({"n": [([1], 2)]}, "n.a") is None
