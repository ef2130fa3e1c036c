import pytest

from corm_batch.data.sources.base import Split
from corm_batch.data.sources.jsonl import JsonlSource
from corm_batch.errors import SourceError


@pytest.fixture
def source(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02d}.jsonl").write_bytes(b"{}")
    return JsonlSource(uri=str(tmp_path))


def test_splits_keep_the_order_of_names(source, tmp_path):
    splits = source.splits_of_files(lambda uri: [Split(uri, 0), Split(uri, 1)])
    expected = [(f"{tmp_path}/{number:02d}.jsonl", index) for number in range(30) for index in range(2)]
    assert [(split.uri, split.index) for split in splits] == expected


def test_all_bad_files_count_but_not_all_are_listed(source):
    def look(uri):
        raise SourceError(f"{uri}: broken")

    with pytest.raises(SourceError) as caught:
        source.splits_of_files(look)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[0].endswith("00.jsonl: broken")
    assert lines[-1] == "... and 10 more files"


def test_each_column_is_wanted_once(source):
    assert source.wanted(["text", "question", "question"]) == ["doc_id", "text", "question"]


def test_several_problems_of_a_row_are_all_named(source):
    row = {"doc_id": None, "text": " ", "question": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")}
    document = source.document(row, ["question"], "file#3")
    assert document.doc_id == document.origin == "file#3"
    assert document.problem == (
        "file#3: column 'doc_id' holds no usable id; column 'text' is empty; column 'question' holds invalid UTF-8"
    )
    assert document.columns == {"question": None}
    assert document.content_sha256
