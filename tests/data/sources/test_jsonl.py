import gzip

import pytest
import zstandard

from corm_batch.data.filesystem import write_whole
from corm_batch.data.sources.jsonl import JsonlSource
from corm_batch.errors import SourceError


def read_all(source, *columns):
    return [document for split in source.splits(columns) for document in source.read(split, columns)]


def test_plain_and_compressed_files_in_order(place):
    write_whole(f"{place}/c.jsonl", b'{"doc_id": "3", "text": "three"}')
    two_lines = b'{"doc_id": 1, "text": "one"}\n\n \n{"doc_id": 2, "text": "two"}'
    write_whole(f"{place}/a.jsonl.gz", gzip.compress(two_lines))
    write_whole(f"{place}/d.jsonl.zst", zstandard.compress('{"doc_id": "4", "text": "f\u00fcnf"}'.encode()))
    write_whole(f"{place}/notes.txt", b"not a document")
    source = JsonlSource(uri=place)
    assert [split.num_rows for split in source.splits()] == [-1, -1, -1]
    found = [(document.doc_id, document.text) for document in read_all(source)]
    assert found == [("1", "one"), ("2", "two"), ("3", "three"), ("4", "f\u00fcnf")]


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


def test_extra_columns_may_be_missing_in_a_line_but_not_in_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"doc_id": 1, "text": "x"}\n{"doc_id": 2, "text": "y", "question": "why?"}')
    source = JsonlSource(uri=str(tmp_path))
    assert [dict(document.columns) for document in read_all(source, "question")] == [
        {"question": None},
        {"question": "why?"},
    ]
    with pytest.raises(SourceError, match=r"a\.jsonl: no line has a column 'title'; there are: doc_id, question, text"):
        source.splits(["title"])


def test_cut_archive_is_a_source_error(tmp_path):
    content = gzip.compress(b'{"doc_id": 1, "text": "x"}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: cannot be read"):
        read_all(JsonlSource(uri=str(tmp_path)))


def test_nothing_to_read_says_where_it_looked(tmp_path):
    with pytest.raises(SourceError, match=f"no files .*{tmp_path}"):
        JsonlSource(uri=str(tmp_path)).splits()
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    with pytest.raises(SourceError, match=f"no documents in the 1 files found at {tmp_path}"):
        JsonlSource(uri=str(tmp_path)).splits()
