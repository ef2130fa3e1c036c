import gzip
import json
import random
import re
import subprocess
import zlib

import pyarrow as pa
import pytest
import zstandard

from corm_batch.data.filesystem import write_whole
from corm_batch.data.sources.jsonl import JsonlSource
from corm_batch.errors import FileError, SourceError, SpecError


def read_all(source, *columns):
    return [document for split in source.splits(columns) for document in source.read(split, columns)]


def test_plain_and_compressed_files_in_order(place):
    write_whole(f"{place}/c.jsonl", b'{"doc_id": "3", "text": "three"}')
    two_lines = b'{"doc_id": 1, "text": "one"}\n\n \n{"doc_id": 2, "text": "two"}'
    write_whole(f"{place}/a.jsonl.gz", gzip.compress(two_lines))
    write_whole(f"{place}/d.jsonl.zst", zstandard.compress('{"doc_id": "4", "text": "f\u00fcnf"}'.encode()))
    write_whole(f"{place}/e.ndjson", b'{"doc_id": "5", "text": "five"}')
    write_whole(f"{place}/f.json.gz", gzip.compress(b'{"doc_id": "6", "text": "six"}'))
    write_whole(f"{place}/notes.txt", b"not a document")
    source = JsonlSource(uri=place)
    assert [split.num_rows for split in source.splits()] == [-1] * 5
    found = [(document.doc_id, document.text) for document in read_all(source)]
    assert found == [("1", "one"), ("2", "two"), ("3", "three"), ("4", "f\u00fcnf"), ("5", "five"), ("6", "six")]


def test_broken_lines_are_documents_with_a_problem(tmp_path):
    lines = [
        b'{"doc_id": "a", "text": "good"}',
        b'{"doc_id": "b", "text": ',
        b'["c", "text"]',
        b'{"doc_id": "d", "text": "\xff"}',
        b'{"doc_id": "e"}',
        b'{"doc_id": "f", "text": 5}',
        b'{"doc_id": "g", "text": "\\ud800"}',
        b'{"doc_id": true, "text": "x"}',
        b"[" * 100_000,
        b'{"doc_id": "z", "text": "good"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents = read_all(JsonlSource(uri=str(tmp_path)))
    assert len(documents) == len(lines)
    assert len({document.doc_id for document in documents}) == len(lines)
    assert [document.doc_id for document in documents if document.problem is None] == ["a", "z"]
    said = ["no JSON", "no JSON object but list", "invalid UTF-8", "is null", "no text but int", "invalid UTF-8"]
    for document, words in zip(documents[1:], [*said, "no usable id", "no JSON"], strict=False):
        assert words in document.problem
        assert document.problem.startswith(document.origin)
        assert document.text is None


def test_a_name_that_is_given_twice_costs_its_line(tmp_path):
    """Which of both counts is not known: most parsers would take the last and say nothing."""
    lines = b'{"doc_id": "a", "text": "x", "text": "y"}\n{"doc_id": "b", "text": "z", "meta": {"t": 1, "t": 1}}\n'
    (tmp_path / "a.jsonl").write_bytes(lines + b'{"doc_id": "c", "text": "z", "meta": {"text": "w"}}\n')
    texts, nested, good = read_all(JsonlSource(uri=str(tmp_path)))
    said = "gives {} twice in one object, and nothing says which counts"
    assert texts.problem == f"{tmp_path}/a.jsonl#0: the line {said.format(repr('text'))}"
    assert nested.problem == f"{tmp_path}/a.jsonl#1: the line {said.format(repr('t'))}"
    assert (texts.text, nested.text, good.text) == (None, None, "z")


def test_bytes_that_are_no_utf8_cost_no_answer_that_does_not_depend_on_them(tmp_path):
    carried = b'"url": "u\xff", "tags": ["v", "w\xfe"], "n": {"t": "\\ud800"}'
    (tmp_path / "a.jsonl").write_bytes(b'{"doc_id": "a", "text": "x", ' + carried + b', "other": "\xff"}\n')
    source, names = JsonlSource(uri=str(tmp_path)), ["url", "tags", "n"]
    (split,) = source.splits(names)
    assert [str(split.kinds[name]) for name in names] == ["string", "list<item: string>", "struct<t: string>"]
    (only,) = source.read_carrying(split, [], names)
    assert (only.problem, only.carried) == (None, {"url": "u\ufffd", "tags": ["v", "w\ufffd"], "n": {"t": "\ufffd"}})
    (asked,) = source.read_carrying(split, ["tags"], ["url"])
    assert "column 'tags' holds invalid UTF-8" in asked.problem
    assert (asked.doc_id, asked.columns, asked.carried) == ("a", {"tags": None}, {"url": "u\ufffd"})


def test_extra_columns_may_be_missing_in_a_line_but_not_in_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"doc_id": 1, "text": "x"}\n{"doc_id": 2, "text": "y", "question": "why?"}')
    source = JsonlSource(uri=str(tmp_path))
    assert [dict(document.columns) for document in read_all(source, "question")] == [
        {"question": None},
        {"question": "why?"},
    ]
    with pytest.raises(SpecError, match=r"a\.jsonl: no line has a column 'title'; there are: doc_id, question, text"):
        source.splits(["title"])
    (tmp_path / "b.jsonl").write_bytes(b'{"doc_id": 3, "text": "x", "title": "y"}')
    (bad, good) = source.splits(["title"])
    assert (bad.error, good.error) == ("no line has a column 'title'; there are: doc_id, question, text", None)


def lines_of(numbers):
    return [
        json.dumps({"doc_id": f"d{number}", "text": f"{number} " * (1 + number % 50)}).encode() for number in numbers
    ]


def read_until_fault(source):
    """Ids before the fault, and the fault."""
    (split,) = source.splits()
    found = []

    def read():
        for document in source.read(split, ()):
            found.append(document.doc_id)

    with pytest.raises(FileError) as caught:
        read()
    return found, caught.value


@pytest.mark.parametrize("frames", [1, 3])
def test_zstd_with_a_long_window_and_of_several_frames(tmp_path, frames):
    """As `zstd --long=31` and `pzstd` write them."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=False)
    lines = [f'{{"doc_id": "{number}", "text": "Text {number}."}}\n'.encode() for number in range(3000)]
    packed = b""
    for frame in range(frames):
        pack = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # whose size no header tells
        packed += pack.compress(b"".join(lines[frame::frames])) + pack.flush()
    (tmp_path / "long.jsonl.zst").write_bytes(packed)
    found = [int(document.doc_id) for document in read_all(JsonlSource(uri=str(tmp_path)))]
    assert found == [number for frame in range(frames) for number in range(3000)[frame::frames]]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_file_is_read_up_to_the_cut(share, suffix, tmp_path):
    lines = lines_of(random.Random(7).randrange(10**6) for _ in range(9000))
    content = b"\n".join(lines)
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    packed = packed[: int(share * len(packed))]
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed)
    if suffix == ".gz":
        readable = zlib.decompressobj(wbits=31).decompress(packed)
    else:
        readable = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    expected = [json.loads(line)["doc_id"] for line in readable.split(b"\n")[:-1]]
    source = JsonlSource(uri=str(tmp_path))
    if not expected:
        ((_, error),) = [(split.num_rows, split.error) for split in source.splits()]
        assert error.startswith("cannot be read: ")
        return
    found, error = read_until_fault(source)
    assert found == expected
    assert f"cannot be read beyond row {len(expected) - 1}: " in error.reason


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_of_no_bytes_or_of_garbage_is_broken(suffix, tmp_path):
    for name, content in {"a": b"", "b": b"no archive " * 50}.items():
        (tmp_path / f"{name}.jsonl{suffix}").write_bytes(content)
    empty, garbage = JsonlSource(uri=str(tmp_path)).splits()
    assert "0 bytes" in empty.error
    assert "cannot be read: " in garbage.error


def test_several_archives_in_one_file_are_all_read_and_a_wrong_checksum_is_told(tmp_path):
    packed = gzip.compress(b'{"doc_id": "1", "text": "x"}\n') + gzip.compress(b'{"doc_id": "2", "text": "y"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert [document.doc_id for document in read_all(JsonlSource(uri=str(tmp_path)))] == ["1", "2"]
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-8] + b"\0" + packed[-7:])
    found, error = read_until_fault(JsonlSource(uri=str(tmp_path)))
    assert found == ["1", "2"]
    assert "CRC" in error.reason


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\xef\xbb\xbf"])
def test_byte_order_marks_and_line_ends_cost_no_document(pack, ending, tmp_path):
    content = b"\xef\xbb\xbf" + ending.join([*lines_of(range(1, 5)), b""])
    (tmp_path / f"a.jsonl{'.gz' if pack is gzip.compress else ''}").write_bytes(pack(content))
    documents = read_all(JsonlSource(uri=str(tmp_path)))
    assert [(document.doc_id, document.problem) for document in documents] == [(f"d{n}", None) for n in range(1, 5)]


OBJECTS = [{"doc_id": f"d{number}", "text": "text", "meta": {"a": 1}} for number in range(3)]
FOREIGN = {
    "indented": (
        "".join(json.dumps(row, indent=2) + "\n" for row in OBJECTS).encode(),
        "over several lines.*jq -c \\.",
    ),
    "indented_long": (json.dumps({"x": list(range(500)), **OBJECTS[0]}, indent=1).encode(), "several lines.*jq -c \\."),
    "tight": (b'{"doc_id": "a",\n"text": "x"}\n{"doc_id": "b",\n"text": "x"}\n', "over several lines.*jq -c \\."),
    "array": (json.dumps(OBJECTS, indent=2).encode(), "one JSON array.*jq -c '\\.\\[\\]'"),
    "array_of_lines": (("[\n" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]").encode(), "one JSON array"),
    "array_on_a_line": (json.dumps(OBJECTS).encode(), "one JSON array"),
    "utf16": (b"\n".join(lines_of(range(9))).decode().encode("utf-16"), "holds UTF-16, .*iconv -f UTF-16 -t UTF-8"),
    "utf16le": (b"\n".join(lines_of(range(9))).decode().encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    "utf16be": (b"\n".join(lines_of(range(9))).decode().encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
    "utf32": (b"\n".join(lines_of(range(9))).decode().encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
    "zeros": (bytes(5000), "NUL bytes"),
    "csv": (b"doc_id,text\na,b\nc,d\n", "none of its 3 lines has a JSON object .*: the line is no JSON"),
    "binary": (random.Random(1).randbytes(4000), "none of its .* lines has a JSON object"),
    "half_a_line": (b'{"doc_id": "a", "te', "its only line does not have a JSON object"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_no_json_lines_is_named_once_with_what_to_do(name, pack, tmp_path):
    content, message = FOREIGN[name]
    (tmp_path / f"a b.jsonl{'.gz' if pack is gzip.compress else ''}").write_bytes(pack(content))
    (tmp_path / "good.jsonl").write_bytes(b"\n".join(lines_of([1])))
    bad, good = JsonlSource(uri=str(tmp_path)).splits()
    assert good.error is None
    assert re.search(message, bad.error)
    assert len(bad.error) < 400
    if pack is gzip.compress and "example" in bad.error:
        assert "zcat 'a b.jsonl.gz' | " in bad.error


def test_the_commands_that_are_named_do_help(tmp_path):
    """jq is not everywhere; iconv is."""
    content = b"\n".join(lines_of(range(1, 6)))
    (tmp_path / "it's.jsonl").write_bytes(content.decode().encode("utf-16-be"))
    (split,) = JsonlSource(uri=str(tmp_path)).splits()
    subprocess.run(split.error.partition("for example: ")[2], shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "it's-converted.jsonl").read_bytes() == content


def test_a_first_line_that_was_not_written_to_its_end_costs_itself_alone(tmp_path):
    for number, torn in enumerate(
        [b'{"doc_id": "a", "te', b'{"doc_id": "a",', b"[1, 2", b'{"doc_id": "a", "text": "x"', b"#"]
    ):
        (tmp_path / "a.jsonl").write_bytes(b"\n".join([torn, *lines_of(range(1, 200 if number else 3))]))
        torn_row, *others = read_all(JsonlSource(uri=str(tmp_path)))
        assert "no JSON" in torn_row.problem
        assert all(document.problem is None for document in others)
        assert len(others) in (2, 199)


def test_lines_that_are_no_json_before_the_first_that_is_are_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*[b"# a comment"] * 250, *lines_of([1])]))
    documents = read_all(JsonlSource(uri=str(tmp_path)))
    assert [document.problem is None for document in documents] == [False] * 250 + [True]


def test_nothing_to_read_says_where_it_looked(tmp_path):
    with pytest.raises(SourceError, match=f"no files .*{tmp_path}"):
        JsonlSource(uri=str(tmp_path)).splits()
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    with pytest.raises(SourceError, match=f"no documents in the 1 files found at {tmp_path}"):
        JsonlSource(uri=str(tmp_path)).splits()


def test_folders_dots_lists_and_messages(tmp_path):
    lines = [
        {"doc_id": "a", "doc": None, "messages": [{"role": "user", "content": "hi"}]},
        {"doc_id": "b", "doc": {"body": ["one", "two"], "n": 1}, "messages": None, "lang": "fr"},
        {"doc_id": "c", "doc": "a text"},
    ]
    (tmp_path / "lang=en").mkdir()
    (tmp_path / "lang=en/a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = JsonlSource(uri=str(tmp_path), text_column="doc.body")
    null, good, none = read_all(source, "lang", "doc.n", "messages.content")
    assert (good.text, dict(good.columns)) == ("one\n\ntwo", {"lang": "fr", "doc.n": 1, "messages.content": None})
    assert null.columns == {"lang": "en", "doc.n": None, "messages.content": ["hi"]}
    assert [one.problem.partition(": ")[2] for one in (null, none)] == ["column 'doc.body' is null"] * 2
    with pytest.raises(SpecError, match=r"no line has a column 'doc\.x'; there are: doc, doc_id, lang, messages"):
        source.splits(["doc.x"])
    assert read_all(JsonlSource(uri=str(tmp_path), text_column="messages"))[0].text == "user: hi"


def test_a_folder_is_no_text_and_no_id_unless_it_is_named(tmp_path):
    (tmp_path / "doc_id=7/text=X").mkdir(parents=True)
    file = tmp_path / "doc_id=7/text=X/a.jsonl"
    file.write_text('{"text": "a"}\n{"n": 1}\n{"text": "c", "doc_id": "own"}\n')
    documents = read_all(JsonlSource(uri=str(tmp_path)), "text", "doc_id")
    origins = ["doc_id=7/text=X/a.jsonl#0", "doc_id=7/text=X/a.jsonl#1"]
    assert [(one.doc_id, one.text, one.columns["doc_id"]) for one in documents] == [
        (origins[0], "a", "7"),
        (origins[1], None, "7"),
        ("own", "c", "own"),
    ]
    assert "column 'text' is null" in documents[1].problem
    file.write_text('{"n": 1}\n')
    with pytest.raises(SpecError, match="no line has a column 'text'"):
        JsonlSource(uri=str(tmp_path)).splits()


def test_types_of_what_is_carried_over_are_told_by_the_first_lines(tmp_path):
    lines = [{"text": "x", "n": 1, "mixed": 1, "meta": {"a": 1}}, {"text": "y", "mixed": "b", "meta": {"b": [True]}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"text": "z"}])))
    source, names = JsonlSource(uri=str(tmp_path)), ["n", "mixed", "meta", "meta.a"]
    (split,) = source.splits(names)
    meta = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.bool_()))])
    assert [split.kinds[name] for name in names] == [pa.int64(), pa.string(), meta, pa.int64()]
    documents = list(source.read_carrying(split, [], names))
    assert [document.carried["meta.a"] for document in documents] == [1, None, None]
    assert documents[1].carried == {"n": None, "mixed": "b", "meta": {"b": [True]}, "meta.a": None}
    assert documents[0].columns == {}
