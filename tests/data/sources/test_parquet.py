import itertools
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.data.filesystem import write_whole
from corm_batch.data.kinds import Moment
from corm_batch.data.sources.base import Source
from corm_batch.data.sources.parquet import ParquetSource
from corm_batch.errors import FileError, SourceError, SpecError


def put(uri, table, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), sink, **options)
    write_whole(uri, sink.getvalue().to_pybytes())


def read_all(source, *columns):
    return [document for split in source.splits(columns) for document in source.read(split, columns)]


def invalid_utf8(values, kind):
    return pa.array(values, pa.binary()).view(kind)


def test_row_groups_of_all_files_in_order(place):
    put(f"{place}/b.parquet", {"doc_id": ["3"], "text": ["three"]})
    put(f"{place}/a.parquet", {"doc_id": ["0", "1", "2"], "text": ["zero", "one", "two"]}, row_group_size=2)
    put(f"{place}/_ignored.parquet", {"doc_id": ["9"], "text": ["nine"]})
    source = ParquetSource(uri=place)
    splits = source.splits()
    assert [(split.uri.rpartition("/")[2], split.index, split.num_rows) for split in splits] == [
        ("a.parquet", 0, 2),
        ("a.parquet", 1, 1),
        ("b.parquet", 0, 1),
    ]
    documents = read_all(source)
    assert [(document.doc_id, document.text) for document in documents] == [
        ("0", "zero"),
        ("1", "one"),
        ("2", "two"),
        ("3", "three"),
    ]
    assert documents[2].origin == f"{place}/a.parquet#1:0"
    assert all(document.problem is None for document in documents)


def test_one_file_and_a_glob(place):
    for name in ("a", "b"):
        put(f"{place}/{name}.parquet", {"doc_id": [name], "text": ["x"]})
    assert [document.doc_id for document in read_all(ParquetSource(uri=f"{place}/b.parquet"))] == ["b"]
    assert [document.doc_id for document in read_all(ParquetSource(uri=f"{place}/*.parquet"))] == ["a", "b"]


def test_other_names_and_extra_columns(tmp_path):
    table = {"n": [7, 8], "body": ["x", "y"], "question": ["why?", None], "unused": [1.0, 2.0]}
    put(f"{tmp_path}/a.parquet", table)
    source = Source.from_spec({"name": "parquet", "uri": str(tmp_path), "id_column": "n", "text_column": "body"})
    first, second = read_all(source, "question")
    assert (first.doc_id, first.text, dict(first.columns)) == ("7", "x", {"question": "why?"})
    assert second.columns == {"question": None}
    assert second.problem is None


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_of_every_string_type(kind, tmp_path):
    put(f"{tmp_path}/a.parquet", {"doc_id": pa.array(["a"]).cast(kind), "text": pa.array(["caf\u00e9"]).cast(kind)})
    (document,) = read_all(ParquetSource(uri=str(tmp_path)))
    assert (document.doc_id, document.text) == ("a", "caf\u00e9")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_bad_rows_become_documents_with_a_problem_and_hurt_nobody(kind, tmp_path):
    texts = invalid_utf8([b"good", None, b"", b" \n\t", b"\xff\xfe", b"\xed\xa0\x80", b"fine"], pa.string())
    table = pa.table({"doc_id": [f"{number}" for number in range(7)], "text": texts})
    put(f"{tmp_path}/a.parquet", table.set_column(1, "text", texts if kind == pa.string() else texts.view(pa.binary())))
    documents = read_all(ParquetSource(uri=str(tmp_path)))
    problems = [document.problem and document.problem.partition(": column 'text' ")[2] for document in documents]
    assert problems[:4] == [None, "is null", "is empty", "is empty"]
    assert problems[4].startswith("holds invalid UTF-8")
    assert problems[5].startswith("holds invalid UTF-8")
    assert problems[6] is None
    assert [document.text for document in documents] == ["good", None, None, None, None, None, "fine"]


def test_rows_without_a_usable_id_get_a_unique_one(tmp_path):
    ids = invalid_utf8([None, b"", b"\xff", b"ok"], pa.string())
    put(f"{tmp_path}/a.parquet", {"doc_id": ids, "text": ["a", "b", "c", "d"]}, row_group_size=2)
    documents = read_all(ParquetSource(uri=str(tmp_path)))
    file = f"{tmp_path}/a.parquet"
    assert [document.doc_id for document in documents] == [f"{file}#0:0", f"{file}#0:1", f"{file}#1:0", "ok"]
    assert [document.problem is None for document in documents] == [False, False, False, True]
    assert "no usable id" in documents[0].problem


def test_invalid_utf8_in_another_column_is_the_rows_problem(tmp_path):
    table = {"doc_id": ["a", "b"], "text": ["x", "y"], "question": invalid_utf8([b"\xff", b"why?"], pa.string())}
    put(f"{tmp_path}/a.parquet", table)
    bad, good = read_all(ParquetSource(uri=str(tmp_path)), "question")
    assert "column 'question' holds invalid UTF-8" in bad.problem
    assert good.columns == {"question": "why?"}


def test_a_missing_column_is_its_files_fault_and_the_specs_when_no_file_has_it(tmp_path):
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a"], "text": ["x"]})
    put(f"{tmp_path}/b.parquet", {"id": ["b"], "text": ["x"]})
    assert [one.doc_id for one in read_good(ParquetSource(uri=str(tmp_path)))] == ["a", "b.parquet#0:0"]
    source = ParquetSource(uri=str(tmp_path), id_column="doc_id")
    good, bad = source.splits()
    assert (good.num_rows, good.error) == (1, None)
    assert (bad.num_rows, bad.error) == (0, "one column 'doc_id' is wanted; the file has: id (string), text (string)")
    with pytest.raises(SpecError, match=r"a\.parquet: one column 'question'"):
        source.splits(["question"])
    put(f"{tmp_path}/b.parquet", {"doc_id": ["b"], "text": ["x"], "question": ["why?"]})
    assert [split.error is None for split in source.splits(["question"])] == [False, True]
    assert len(source.splits()) == 2


@pytest.mark.parametrize("other", [{"text": [1]}, {"doc_id": [["x"]]}, {"doc_id": [True]}, {"text": [[1]]}])
def test_columns_of_another_type_are_the_files_fault(other, tmp_path):
    (name,) = other
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a"], "text": ["x"]} | other)
    with pytest.raises(SpecError, match=rf"a\.parquet: column '{name}' .* must hold text"):
        ParquetSource(uri=str(tmp_path)).splits()
    put(f"{tmp_path}/b.parquet", {"doc_id": ["b"], "text": ["x"]})
    assert [document.doc_id for document in read_good(ParquetSource(uri=str(tmp_path)))] == ["b"]


def test_ids_are_text_whole_numbers_or_uuids(tmp_path):
    one = UUID(int=1)
    for name, ids in {
        "decimal": pa.array([Decimal("7.00"), None], pa.decimal128(9, 2)),
        "float": pa.array([7.0, 7.5]),
        "uuid": pa.array([one.bytes, None], pa.uuid()),
        "words": pa.array(["a", None]).dictionary_encode(),
    }.items():
        pq.write_table(pa.table({"doc_id": ids, "text": ["x", "y"]}), tmp_path / f"{name}.parquet")
    documents = read_good(ParquetSource(uri=str(tmp_path)))
    assert [document.doc_id for document in documents if document.problem is None] == ["7", "7", str(one), "a"]
    assert len(documents) == 8


def test_folders_name_columns_that_a_file_does_not_have_itself(place):
    put(f"{place}/year=2020/lang=__HIVE_DEFAULT_PARTITION__/a.parquet", {"doc_id": ["a"], "text": ["x"]})
    put(f"{place}/year=2021/lang=en/b.parquet", {"doc_id": ["b"], "text": ["y"], "lang": ["fr"]})
    put(f"{place}/_year=2022/year=2022/lang=de/c.parquet", {"doc_id": ["c"], "text": ["z"]})
    put(f"{place}/_temporary/year=2023/lang=de/d.parquet", {"doc_id": ["d"], "text": ["z"]})
    documents = read_all(ParquetSource(uri=place), "lang", "year")
    assert {document.doc_id: dict(document.columns) for document in documents} == {
        "a": {"lang": None, "year": "2020"},
        "b": {"lang": "fr", "year": "2021"},
        "c": {"lang": "de", "year": "2022"},
    }
    with pytest.raises(
        SpecError, match=r"one column 'month' is wanted; .* year \(its folder's\), lang \(its folder's\)"
    ):
        ParquetSource(uri=f"{place}/year=2020").splits(["month"])
    with pytest.raises(SpecError, match=r"one column 'year' is wanted; .* year \(its folder's\)"):
        ParquetSource(uri=f"{place}/year=2020", text_column="year").splits()


def test_a_folder_is_no_text_and_no_id_unless_it_is_named(tmp_path):
    put(f"{tmp_path}/doc_id=7/text=X/x.parquet", {"text": ["a", None]})
    documents = read_all(ParquetSource(uri=str(tmp_path)), "doc_id")
    origins = ["doc_id=7/text=X/x.parquet#0:0", "doc_id=7/text=X/x.parquet#0:1"]
    assert [(one.doc_id, one.text, one.columns["doc_id"]) for one in documents] == [
        (origins[0], "a", "7"),
        (origins[1], None, "7"),
    ]
    assert [one.doc_id for one in read_all(ParquetSource(uri=str(tmp_path), id_column="doc_id"))] == ["7", "7"]


def test_dotted_names_lead_into_columns(tmp_path):
    rows = [
        {"doc_id": "a", "doc": {"body": "first", "n": {"x": 1}}, "m": [{"role": "user", "content": "hi"}]},
        {"doc_id": "b", "doc": None, "m": None},
        {"doc_id": "c", "doc": {"body": None, "n": None}, "m": []},
    ]
    table = pa.Table.from_pylist(rows)
    put(f"{tmp_path}/a.parquet", table.append_column("plain.name", pa.array([1, 2, 3])))
    source = ParquetSource(uri=str(tmp_path), text_column="doc.body")
    good, bad, worse = read_all(source, "doc.n.x", "m.content", "plain.name", "doc")
    assert (good.text, good.columns["doc.n.x"], good.columns["m.content"], good.columns["plain.name"]) == (
        "first",
        1,
        ["hi"],
        1,
    )
    assert good.columns["doc"] == rows[0]["doc"]
    assert (bad.columns["doc.n.x"], worse.columns["m.content"]) == (None, [])
    assert [one.problem.partition("#0:")[2] for one in (bad, worse)] == [
        "1: column 'doc.body' is null",
        "2: column 'doc.body' is null",
    ]
    with pytest.raises(SpecError, match=r"not struct<.* \(a field in it is doc\.NAME\)"):
        ParquetSource(uri=str(tmp_path), text_column="doc").splits()
    messages = ParquetSource(uri=str(tmp_path), text_column="m")
    assert [document.text for document in read_all(messages)] == ["user: hi", None, None]


def test_lists_of_texts_are_joined(tmp_path):
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a", "b", "c"], "text": [["one", None, "two"], [], None]})
    documents = read_all(ParquetSource(uri=str(tmp_path)))
    assert documents[0].text == "one\n\ntwo"
    assert ["is empty" in documents[1].problem, "is null" in documents[2].problem] == [True, True]
    assert read_all(ParquetSource(uri=str(tmp_path), text_separator=" "))[0].text == "one two"


def test_what_is_carried_over_is_as_the_file_has_it(tmp_path):
    when = pa.array([1_001, None], pa.timestamp("ns"))
    blob = pa.array([b"\xff\x00", b"text"], pa.binary())
    meta = [{"url": "u", "tags": ["x"]}, None]
    put(
        f"{tmp_path}/y=1/a.parquet",
        {"doc_id": ["a", "b"], "text": ["x", "y"], "when": when, "blob": blob, "meta": meta},
    )
    source, names = ParquetSource(uri=str(tmp_path)), ["when", "blob", "meta.url", "y", "text", "meta"]
    (split,) = source.splits(names)
    kinds = [pa.timestamp("ns"), pa.binary(), pa.string(), pa.string(), pa.string()]
    assert [split.kinds[name] for name in names[:5]] == kinds
    first, second = source.read_carrying(split, ["blob", "when"], names)
    assert first.carried == {
        **{"when": Moment(1_001, kinds[0]), "blob": b"\xff\x00", "meta.url": "u", "y": "1", "text": "x"},
        "meta": meta[0],
    }
    assert "column 'blob' holds invalid UTF-8" in first.problem
    assert (second.text, second.columns, second.carried["blob"]) == ("y", {"blob": "text", "when": None}, b"text")
    first, _ = source.read_carrying(split, ["when"], ["blob"])
    assert (first.problem, first.columns["when"]) == (None, "1970-01-01 00:00:00.000001001")
    with pytest.raises(SpecError, match="one column 'link' is wanted"):
        source.splits(["link"])


def test_a_carried_text_that_is_no_utf8_costs_no_answer(tmp_path):
    url = invalid_utf8([b"u\xff"], pa.string())
    urls = pa.ListArray.from_arrays([0, 1], url)
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a"], "text": ["x"], "url": url, "urls": urls})
    source = ParquetSource(uri=str(tmp_path))
    (only,) = source.read_carrying(*source.splits(), [], ["url"])
    assert (only.text, only.carried, only.problem) == ("x", {"url": "u\ufffd"}, None)
    (asked,) = source.read_carrying(*source.splits(), ["url"], ["url"])
    assert "column 'url' holds invalid UTF-8" in asked.problem


def test_one_element_that_is_no_utf8_costs_no_answer_unless_the_task_reads_it(tmp_path):
    bad, far = invalid_utf8([b"u\xff", b"v"], pa.string()), pa.array([2**55], pa.timestamp("ms"))
    columns = {
        "urls": pa.ListArray.from_arrays([0, 2], bad),
        "meta": pa.StructArray.from_arrays([pa.array([1]), bad[:1]], ["n", "title"]),
        "map": pa.MapArray.from_arrays([0, 1], pa.array(["k"]), bad[:1]),
        "times": pa.ListArray.from_arrays([0, 1], far),
        "blobs": pa.array([[b"\xff"]], pa.list_(pa.binary())),
    }
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a"], "text": ["x"], **columns})
    source = ParquetSource(uri=str(tmp_path))
    (only,) = source.read_carrying(*source.splits(), ["meta.n"], [*columns, "meta.n"])
    assert (only.text, only.problem, only.columns) == ("x", None, {"meta.n": 1})
    assert only.carried == {
        "urls": ["u\ufffd", "v"],
        "meta": {"n": 1, "title": "u\ufffd"},
        "meta.n": 1,
        "map": [("k", "u\ufffd")],
        "times": ["<value out of range: 36028797018963968>"],
        "blobs": [b"\xff"],
    }
    for name in ("urls", "meta", "map", "meta.title"):
        (asked,) = source.read_carrying(*source.splits(), [name], [name])
        assert f"column {name!r} holds invalid UTF-8" in asked.problem, name
        assert asked.columns == {name: None}
    (text,) = ParquetSource(uri=str(tmp_path), text_column="urls").read(*source.splits(), [])
    assert "column 'urls' holds invalid UTF-8 ('utf-8' codec can't decode byte 0xff" in text.problem


def read_good(source):
    """The documents of every file that can be read."""
    return [document for split in source.splits() if split.error is None for document in source.read(split, ())]


def test_broken_files_hurt_nobody(tmp_path):
    put(f"{tmp_path}/good.parquet", {"doc_id": ["a"], "text": ["x"]})
    whole = (tmp_path / "good.parquet").read_bytes()
    contents = {
        "0bytes": b"",
        "cut": whole[: len(whole) // 2],
        "footer": whole[:-3],
        "magic": b"PAR1",
        "junk": b"junk" * 100,
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.parquet").write_bytes(content)
    source = ParquetSource(uri=str(tmp_path))
    broken = [split for split in source.splits() if split.error is not None]
    assert {split.uri.rpartition("/")[2].removesuffix(".parquet") for split in broken} == set(contents)
    assert all(split.num_rows == 0 and split.error.startswith("cannot be read: ") for split in broken)
    assert [document.doc_id for document in read_good(source)] == ["a"]


def test_damage_in_a_row_group_costs_the_rows_behind_it_alone(tmp_path):
    ids = [f"{n}" for n in range(3000)]
    table = {"doc_id": ids, "text": [f"text {n} " * 40 for n in range(3000)]}
    put(
        f"{tmp_path}/a.parquet",
        table,
        row_group_size=1000,
        compression="none",
        use_dictionary=False,
        data_page_size=9000,
    )
    place = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(1)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    middle = place.data_page_offset + place.total_compressed_size // 2
    content[middle : middle + 40_000] = b"\xff" * 40_000
    (tmp_path / "a.parquet").write_bytes(content)
    source = ParquetSource(uri=str(tmp_path))
    first, second, third = source.splits()
    found = []

    def read(split):
        for document in source.read(split, ()):
            found.append(document.doc_id)

    with pytest.raises(FileError, match=r"a\.parquet: cannot be read beyond row 1:\d+: "):
        read(second)
    assert found == ids[1000 : 1000 + len(found)]
    assert 200 < len(found) < 600
    found.clear()
    read(first)
    read(third)
    assert found == [*ids[:1000], *ids[2000:]]


def test_a_page_whose_checksum_is_wrong_is_no_text(tmp_path):
    table = {"doc_id": ["a"], "text": ["the code is 17"]}
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    put(f"{tmp_path}/a.parquet", table, **options)
    content = (tmp_path / "a.parquet").read_bytes().replace(b"the code is 17", b"the code is 71")
    (tmp_path / "a.parquet").write_bytes(content)
    source = ParquetSource(uri=str(tmp_path))
    with pytest.raises(FileError, match=r"a\.parquet: cannot be read: .*(checksum|CRC)"):
        list(source.read(source.splits()[0], ()))


def test_a_column_of_type_null_is_null_in_every_row(tmp_path):
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a", "b"], "text": pa.nulls(2)})
    put(f"{tmp_path}/b.parquet", {"doc_id": pa.nulls(1), "text": ["x"]})
    documents = read_all(ParquetSource(uri=str(tmp_path)))
    assert [document.doc_id for document in documents] == ["a", "b", f"{tmp_path}/b.parquet#0:0"]
    assert ["is null" in document.problem for document in documents] == [True, True, False]
    assert "no usable id" in documents[2].problem


@pytest.mark.parametrize(
    "empty",
    [{"doc_id": pa.nulls(0), "text": pa.nulls(0)}, {}, {"doc_id": [], "text": []}, {"text": pa.array([], "f8")}],
)
def test_a_file_without_rows_is_an_empty_split_whatever_its_columns(empty, tmp_path):
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a"], "text": ["x"]})
    put(f"{tmp_path}/b.parquet", empty)
    splits = ParquetSource(uri=str(tmp_path)).splits()
    assert [(split.num_rows, split.error) for split in splits] == [(1, None), (0, None)]
    assert list(ParquetSource(uri=str(tmp_path)).read(splits[1], ())) == []


def test_a_cell_that_is_no_value_is_its_rows_problem(tmp_path):
    when = pa.array([2**55, 0], pa.timestamp("ms"))
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a", "b"], "text": ["x", "y"], "when": when})
    bad, good = read_all(ParquetSource(uri=str(tmp_path)), "when")
    assert "column 'when' cannot be read (36028797018963968 as timestamp[ms])" in bad.problem
    assert good.problem is None


def test_a_cell_that_is_no_value_is_no_problem_where_it_is_carried_over(tmp_path):
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a"], "text": ["x"], "pair": twice})
    source = ParquetSource(uri=str(tmp_path))
    (split,) = source.splits(["pair"])
    (document,) = source.read_carrying(split, [], ["pair"])
    assert (document.text, document.problem) == ("x", None)
    assert document.carried["pair"].startswith("<cannot be read: Converting to Python dictionary is not supported")


@pytest.mark.parametrize("rows", [None, 0])
def test_nothing_to_read_says_where_it_looked(rows, place):
    if rows == 0:
        put(f"{place}/in/a.parquet", {"doc_id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    with pytest.raises(SourceError, match=f"{place}/in"):
        ParquetSource(uri=f"{place}/in").splits()


def test_a_huge_row_group_is_read_a_few_rows_at_a_time(tmp_path):
    text = "word " * 40_000  # 200 kB, times 400 rows: 80 MB in one row group
    table = {"doc_id": [f"{n}" for n in range(400)], "text": [f"{n}{text}" for n in range(400)]}
    put(f"{tmp_path}/a.parquet", table, write_batch_size=8)  # pages of a few rows: a page is what is decoded at once
    source = ParquetSource(uri=str(tmp_path))
    (split,) = source.splits()
    del table
    before = pa.total_allocated_bytes()
    peak = 0
    for document in source.read(split, ()):
        assert document.problem is None
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 30e6


def test_only_wanted_columns_are_read(tmp_path):
    put(f"{tmp_path}/a.parquet", {"doc_id": ["a"], "text": ["x"], "blob": [b"\0" * 100]})
    source = ParquetSource(uri=str(tmp_path))
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    metadata = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(2)
    start = metadata.dictionary_page_offset or metadata.data_page_offset
    content[start : start + metadata.total_compressed_size] = b"\xff" * metadata.total_compressed_size
    (tmp_path / "a.parquet").write_bytes(content)
    assert [document.text for document in read_all(source)] == ["x"]


def test_reading_can_stop_early(tmp_path):
    put(f"{tmp_path}/a.parquet", {"doc_id": [f"{n}" for n in range(100)], "text": ["x"] * 100})
    source = ParquetSource(uri=str(tmp_path))
    documents = source.read(source.splits()[0], ())
    assert [document.doc_id for document in itertools.islice(documents, 2)] == ["0", "1"]
    documents.close()


def test_unknown_field_and_credentials_are_refused():
    with pytest.raises(SpecError, match=r"source\.path: unknown key; known here: filter, group_by, uri, id_column"):
        Source.from_spec({"name": "parquet", "uri": "x", "path": "y"})
    with pytest.raises(SpecError, match=r"source\.uri: credentials in a URI") as caught:
        Source.from_spec({"name": "parquet", "uri": "s3://key:secret@bucket/x"})
    assert "secret" not in str(caught.value)
