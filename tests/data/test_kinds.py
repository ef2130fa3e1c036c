import datetime
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest

from corm_batch.data.kinds import Moment, NoText, array_of, kind_of, python_value, spelled, storable, unified

UTC = datetime.UTC


def test_cells_that_python_has_no_value_of_are_told_part_by_part():
    bad = pa.array([b"u\xff", b"v"], pa.binary()).view(pa.string())
    named = pa.StructArray.from_arrays([pa.array([1, 2]), bad], ["n", "text"])
    twice = pa.StructArray.from_arrays([pa.array([1, 2]), bad], ["n", "n"])
    found = [
        python_value(cells[0])
        for cells in (bad, pa.DictionaryArray.from_arrays(pa.array([0]), bad), pa.ListArray.from_arrays([0, 2], named))
    ]
    assert found == [b"u\xff", b"u\xff", [{"n": 1, "text": b"u\xff"}, {"n": 2, "text": "v"}]]
    assert all(type(one) is NoText for one in (*found[:2], found[2][0]["text"]))
    assert isinstance(python_value(twice[0]), ValueError)
    far = pa.timestamp("ms")
    assert python_value(pa.array([[2**55, None]], pa.list_(far))[0]) == [Moment(2**55, far), None]


def test_one_type_for_several():
    struct = pa.struct([("a", pa.int64())])
    wider = pa.struct([("a", pa.float64()), ("b", pa.string())])
    assert unified([pa.int32(), pa.null(), pa.int64()]) == pa.int64()
    assert unified([struct, wider]) == wider
    assert unified([pa.dictionary(pa.int8(), pa.string()), pa.string()]) == pa.string()
    assert unified([pa.int64(), pa.string()]) is None


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], pa.int8()),
        ([1, 2.5, float("nan")], pa.float64()),
        ([True, None], pa.bool_()),
        (["a", None], pa.large_string()),
        ([b"\xff\x00", None], pa.binary()),
        (["caf\u00e9"], pa.binary()),
        ([Decimal("1.50")], pa.decimal128(9, 2)),
        ([datetime.date(2020, 1, 2)], pa.date32()),
        ([datetime.datetime(2020, 1, 2, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
        ([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        ([{"a": [1, None], "b": {"c": "x"}}, {"a": None}], None),
        ([], pa.int32()),
    ],
)
def test_values_keep_their_type(values, kind):
    found = array_of(values, kind or kind_of(values))
    assert found.type == (kind or pa.array(values).type)
    assert kind is None or found.equals(pa.array(values, kind)) or "nan" in str(values)


def test_times_to_the_nanosecond_and_of_no_calendar_and_uuids_are_exact():
    kind, far = pa.timestamp("ns", "UTC"), pa.timestamp("ms")
    found = array_of([Moment(1_500, kind), None, datetime.datetime(1970, 1, 1, tzinfo=UTC)], kind)
    assert (found.type, found.cast(pa.int64()).to_pylist()) == (kind, [1_500, None, 0])
    assert array_of([Moment(2**55, far)], far).cast(pa.int64()).to_pylist() == [2**55]
    assert array_of([Moment(7, pa.timestamp("us"))], pa.timestamp("ns")).cast(pa.int64()).to_pylist() == [7_000]
    one = UUID(int=1)
    assert array_of([one, None], pa.uuid()).to_pylist() == [one, None]


@pytest.mark.parametrize(
    ("values", "kind", "held", "now"),
    [
        ([1, 2.5], pa.int64(), [1.0, 2.5], pa.float64()),
        ([1, True], pa.int64(), ["1", "true"], pa.string()),
        ([1, "a", None], pa.int64(), ["1", "a", None], pa.string()),
        ([2**70], pa.int64(), [str(2**70)], pa.string()),
        ([2**53 + 1, 0], pa.float64(), [2**53 + 1, 0], pa.int64()),
        ([{"a": 1, "b": 2}], pa.struct([("a", pa.int64())]), [{"a": 1, "b": 2}], None),
        ([{"a": 1}, [1]], pa.struct([("a", pa.int64())]), ['{"a": 1}', "[1]"], pa.string()),
        ([["\ud800", b"\xff"]], pa.list_(pa.string()), None, pa.string()),
    ],
)
def test_a_value_of_another_type_is_not_changed(values, kind, held, now):
    found = array_of(values, kind)
    assert now is None or found.type == now
    assert held is None or found.to_pylist() == held
    found.validate(full=True)


def test_values_as_text():
    assert [spelled(value) for value in (None, "a\ud800", b"\xff", [1, None], {"a": UTC})] == [
        *(None, "a\ufffd", "\ufffd", "[1, null]", '{"a": "UTC"}')
    ]
    assert spelled(Moment(1, pa.timestamp("ns"))) == "1970-01-01 00:00:00.000000001"
    assert kind_of([1, "a"]) == pa.string()
    assert kind_of([None]) == pa.null()


def test_types_that_no_part_holds_are_those_of_their_values_or_text():
    frame = pa.struct([("a", pa.string_view()), ("b", pa.list_(pa.dictionary(pa.int8(), pa.string())))])
    assert storable(frame) == pa.struct([("a", pa.string()), ("b", pa.list_(pa.string()))])
    assert storable(pa.map_(pa.string_view(), pa.binary_view())) == pa.map_(pa.string(), pa.binary())
    assert storable(pa.large_list_view(pa.int8())) == pa.list_(pa.int8())
    assert storable(pa.list_(pa.int8(), 2)) == pa.list_(pa.int8(), 2)
    assert unified([pa.run_end_encoded(pa.int32(), pa.int64()), pa.null()]) == pa.int64()
    twice = pa.struct([pa.field("a", pa.int64()), pa.field("a", pa.string())])
    for kind in (pa.struct([]), twice, pa.month_day_nano_interval()):
        assert unified([kind]) is unified([pa.list_(pa.struct([("x", kind)])), pa.null()]) is None
    for values, texts in (([{}, None], ["{}", None]), ([{"x": {}}], ['{"x": {}}']), ([[{}], []], ["[{}]", "[]"])):
        found = array_of(values, kind_of(values))
        assert (found.type, found.to_pylist()) == (pa.string(), texts)
    assert array_of(["a"], pa.string_view()).type == pa.string()


@pytest.mark.parametrize("wrap", [lambda kind: kind, pa.list_, lambda kind: pa.struct([("x", kind)])])
def test_text_is_not_bytes_nor_a_decimal_a_float(wrap):
    for one, other in ((pa.string(), pa.binary()), (pa.large_string(), pa.large_binary())):
        assert unified([wrap(one), wrap(other)]) is unified([wrap(other), wrap(one)]) is None
    assert unified([wrap(pa.decimal128(30, 2)), wrap(pa.float64())]) is None
    assert unified([wrap(pa.decimal128(30, 2)), wrap(pa.int64())]) == wrap(pa.decimal128(30, 2))
    assert array_of([b"caf\xc3\xa9", "a"], pa.string()).to_pylist() == ["caf\u00e9", "a"]
    assert array_of([b"\xff"], pa.string()).to_pylist() == [b"\xff"]


def test_keys_that_are_no_text_and_values_that_json_has_none_of_are_text():
    assert spelled({(1, 2): [{None: "a", b"k": 1}]}) == '{"(1, 2)": [{"None": "a", "b\'k\'": 1}]}'
    assert spelled(datetime.date(2020, 1, 1)) == "2020-01-01"
    assert [spelled(value) for value in (Decimal("1.50"), UUID(int=1), True, 1.5)] == [
        *("1.50", str(UUID(int=1)), "true", "1.5")
    ]


def test_what_holds_itself_or_nests_too_deep_is_text():
    itself, deep = {}, []
    itself["x"] = itself
    for _ in range(20_000):
        deep = [deep]
    for value in (itself, deep):
        assert array_of([value], kind_of([value]))[0].as_py().endswith("that nests too deep or holds itself>")
    hundred = [1]
    for _ in range(100):
        hundred = [hundred]
    assert array_of([hundred], kind_of([hundred])).to_pylist() == ["[" * 101 + "1" + "]" * 101]
