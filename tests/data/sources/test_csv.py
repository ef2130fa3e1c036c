import gzip

import pyarrow as pa
import pytest
import zstandard

from corm_batch.data.filesystem import write_whole
from corm_batch.data.sources.base import Source
from corm_batch.data.sources.csv import CsvSource
from corm_batch.errors import FileError, SourceError, SpecError


def read_all(source, *columns):
    return [document for split in source.splits(columns) for document in source.read(split, columns)]


def test_rows_of_all_files_as_they_stand(place):
    write_whole(f"{place}/a.csv", b'doc_id,text,n\r\n007,"a ""quoted""\r\n\r\nline, here",1.50\r\n\r\n8, b ,\r\n')
    write_whole(f"{place}/b.csv.gz", gzip.compress(b"text,doc_id\none,x\n"))
    write_whole(f"{place}/lang=en/c.tsv.zst", zstandard.compress(b"doc_id\ttext\ny\ttwo, three\n"))
    write_whole(f"{place}/notes.txt", b"not a document")
    source = CsvSource(uri=place)
    assert [(split.num_rows, split.index) for split in source.splits()] == [(-1, 0)] * 3
    documents = read_all(source)
    assert [(document.doc_id, document.text) for document in documents] == [
        *(("007", 'a "quoted"\r\n\r\nline, here'), ("8", " b "), ("x", "one"), ("y", "two, three")),
    ]
    assert documents[1].origin == f"{place}/a.csv#1"
    only = CsvSource(uri=f"{place}/a.csv")
    (split,) = only.splits(["n"])
    assert split.kinds == {"n": pa.string()}
    assert [document.columns["n"] for document in only.read(split, ["n"])] == ["1.50", ""]
    assert [document.carried for document in only.read_carrying(split, [], ["n"])] == [{"n": "1.50"}, {"n": ""}]
    (last,) = read_all(CsvSource(uri=f"{place}/lang=en"), "lang")
    assert last.columns == {"lang": "en"}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_what_parts_the_names_is_found(delimiter, tmp_path):
    lines = [["\ufeffdoc_id", "a,b;c", "text"], ["1", "x", "one"], ["2", "y", '"t;w|o, \t"']]
    lines[0][1] = '"a,b;c"'
    (tmp_path / "a.csv").write_text("\n".join(map(delimiter.join, lines)), encoding="utf-8")
    documents = read_all(CsvSource(uri=str(tmp_path)), "a,b;c")
    assert [(one.doc_id, one.text, one.columns["a,b;c"]) for one in documents] == [
        *(("1", "one", "x"), ("2", "t;w|o, \t", "y")),
    ]


def test_another_delimiter_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("doc_id:text\n1:one\n")
    with pytest.raises(SpecError, match="one column 'text' is wanted; the file has: doc_id:text"):
        CsvSource(uri=str(tmp_path)).splits()
    source = Source.from_spec({"name": "csv", "uri": str(tmp_path), "delimiter": ":"})
    assert [document.text for document in read_all(source)] == ["one"]
    with pytest.raises(SpecError, match=r"source\.delimiter: String should have at most 1 character"):
        Source.from_spec({"name": "csv", "uri": "x", "delimiter": "::"})


def test_bad_rows_become_documents_with_a_problem_and_hurt_nobody(tmp_path):
    rows = [
        b"doc_id,text",
        b"a,good",
        b"b",
        b"c,too,many",
        b"d,\xff",
        b",no id",
        b"f,",
        b"g," + b"x" * 300_000,
        b"z,good",
    ]
    (tmp_path / "a.csv").write_bytes(b"\n".join(rows))
    documents = read_all(CsvSource(uri=str(tmp_path)))
    assert [document.doc_id for document in documents if document.problem is None] == ["a", "g", "z"]
    said = [document.problem.partition("#")[2] for document in documents if document.problem is not None]
    assert said == [
        "1: the row has 1 fields, and there are 2 columns",
        "2: the row has 3 fields, and there are 2 columns",
        "3: column 'text' holds invalid UTF-8 (byte 0xff, as of another encoding)",
        "4: column 'doc_id' holds no usable id but ''",
        "5: column 'text' is empty",
    ]


def test_what_stands_before_damage_is_read_and_the_place_is_said(tmp_path):
    (tmp_path / "a.csv").write_text('text\none\n"two\nthree\n')
    source = CsvSource(uri=str(tmp_path))
    documents = source.read(*source.splits(), ())
    assert next(documents).text == "one"
    with pytest.raises(FileError) as cut:
        next(documents)
    assert cut.value.reason == (
        "the row that begins in line 3 opens a quote that nothing closes up to the file's end, line 4: nothing from "
        "line 3 on is read"
    )
    (tmp_path / "a.csv").write_text('text,"n\none,1\n')
    with pytest.raises(FileError, match="line 1 opens a quote that nothing closes up to the file's end, line 2"):
        next(source.read(*source.splits(), ()))
    (tmp_path / "a.csv").write_text('text,"n" a\none,1\n')
    with pytest.raises(FileError, match="the names of its columns cannot be read: its quotes are wrong in line 1"):
        next(source.read(*source.splits(), ()))
    (tmp_path / "a.csv").unlink()
    content = gzip.compress(("text\n" + "".join(f"line {number}\n" for number in range(9000))).encode())
    (tmp_path / "a.csv.gz").write_bytes(content[: len(content) // 2])
    documents = source.read(*source.splits(), ())
    with pytest.raises(FileError, match="cannot be read beyond row"):
        assert len(list(documents)) > 9000


def test_a_folder_is_no_text_and_no_id_unless_it_is_named(tmp_path):
    (tmp_path / "doc_id=7/text=X").mkdir(parents=True)
    file = tmp_path / "doc_id=7/text=X/a.csv"
    file.write_text("n,text\n1,a\n2,b\n")
    documents = read_all(CsvSource(uri=str(tmp_path)), "doc_id")
    origins = ["doc_id=7/text=X/a.csv#0", "doc_id=7/text=X/a.csv#1"]
    assert [(one.doc_id, one.text, one.columns["doc_id"]) for one in documents] == [
        *((origins[0], "a", "7"), (origins[1], "b", "7"))
    ]
    assert [one.doc_id for one in read_all(CsvSource(uri=str(tmp_path), id_column="doc_id"))] == ["7", "7"]
    file.write_text("doc_id,text\nown,a\n")
    assert [one.doc_id for one in read_all(CsvSource(uri=str(tmp_path)))] == ["own"]
    file.write_text("n\n1\n")
    with pytest.raises(SpecError, match=r"one column 'text' is wanted; .* n, doc_id \(its folder's\), text \(its fol"):
        CsvSource(uri=str(tmp_path)).splits()


def test_empty_and_foreign_files(tmp_path):
    for name, content in {"empty": b"", "names": b"doc_id,text\n", "blank": b"\n\n"}.items():
        (tmp_path / f"{name}.csv").write_bytes(content)
    with pytest.raises(SourceError, match="no documents in the 3 files"):
        CsvSource(uri=str(tmp_path)).splits()
    (tmp_path / "utf16.csv").write_bytes("doc_id,text\n1,one\n".encode("utf-16"))
    (tmp_path / "twice.csv").write_bytes(b"text,text\n1,2\n")
    (tmp_path / "blank_before.csv").write_bytes(b"doc_id, text,\n1,2,3\n")
    (tmp_path / "good.csv").write_bytes(b"text\none\n")
    told = {split.uri.rpartition("/")[2]: split.error for split in CsvSource(uri=str(tmp_path)).splits() if split.error}
    assert told["utf16.csv"].startswith("it holds UTF-16, not UTF-8; convert it")
    assert told["utf16.csv"].endswith("utf16.csv > utf16-converted.csv")
    assert told["twice.csv"] == "one column 'text' is wanted; the file has: text, text"
    assert told["blank_before.csv"] == "one column 'text' is wanted; the file has: doc_id, ' text', ''"
    assert len(told) == 3


@pytest.mark.parametrize(
    ("bad", "lines"),
    [
        ('"he said "hi" to"', "line 3"),
        ('"Hello" she said', "line 3"),
        ('"6" pipe"', "line 3"),
        ('"one "two" three\nfour, five\nthat, was "it"', "lines 3 to 5"),
        ('"one\nthe "two", three\nfour"', "lines 3 to 4"),
    ],
)
@pytest.mark.parametrize("place_of_bad", [0, 1, 3])
def test_a_stray_quote_costs_its_own_row_only(bad, lines, place_of_bad, tmp_path):
    rows = ['1,"a ""quoted"""', "2,two", '3,"x,\ny"']
    rows.insert(place_of_bad, f"9,{bad}")
    (tmp_path / "a.csv").write_text("doc_id,text\n" + "\n".join(rows) + "\n")
    documents = read_all(CsvSource(uri=str(tmp_path)))
    good = [(one.doc_id, one.text) for one in documents if one.problem is None]
    assert good == [("1", 'a "quoted"'), ("2", "two"), ("3", "x,\ny")]
    (failed,) = [one for one in documents if one.problem is not None and "its quotes are wrong" in one.problem]
    assert failed.doc_id == f"{tmp_path}/a.csv#{place_of_bad}"
    if place_of_bad == 1:
        assert f"#1: its quotes are wrong in {lines} of the file (',' expected after '\"')" in failed.problem


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.tsv", "text\none, two\nthree; four\n", ["one, two", "three; four"]),
        ("a.TSV.gz", "text\none, two\n", ["one, two"]),
        ("a.tsv", "doc_id,text\n1,one\n", ["one"]),
        ("a.csv", "\n \r\ntext,n\none,1\n", ["one"]),
        ("a.csv", "\ufeffsep=;\r\ntext;n\r\n1,5;1\r\n", ["1,5"]),
        ("a.csv", '"sep=:"\ntext:n\none:1\n', ["one"]),
        ("a.csv", "SEP=\t\n\ntext\n1, 2\n", ["1, 2"]),
        ("a.tsv", 'text\tn\n"Hello" she said\t1\ntwo\t2\n', [None, "two"]),
    ],
)
def test_what_comes_before_the_names_and_what_parts_them(name, content, texts, tmp_path):
    packed = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(packed(content.encode()))
    assert [document.text for document in read_all(CsvSource(uri=str(tmp_path)))] == texts
