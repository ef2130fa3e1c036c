import gzip
import os

import pytest

from corm_batch.data.filesystem import list_files, read_whole, write_whole
from corm_batch.data.published import published
from corm_batch.errors import OutputError


def test_a_file_is_at_its_place_whole_or_not_at_all(place):
    uri = f"{place}/folder/a.csv"
    with published(uri) as file:
        file.write(b"one")
        assert list_files(f"{place}/folder/") == []
        file.write(b" two")
    assert read_whole(uri) == b"one two"
    with pytest.raises(TypeError), published(uri) as file:
        file.write(b"half" * 1_000_000 + file)
    assert read_whole(uri) == b"one two"
    with published(uri) as file, gzip.GzipFile("", "wb", fileobj=file) as packed:
        packed.write(b"three")
    assert gzip.decompress(read_whole(uri)) == b"three"


def test_nothing_is_left_behind_and_others_may_read_it(tmp_path):
    uri = f"{tmp_path}/a.csv"
    with published(uri):
        pass
    write_whole(f"{tmp_path}/b.csv", b"")
    assert os.stat(uri).st_mode == os.stat(f"{tmp_path}/b.csv").st_mode
    with pytest.raises(ZeroDivisionError), published(uri):
        raise ZeroDivisionError
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "b.csv"]


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"file/a\.csv: cannot be written"), published(f"{tmp_path}/file/a.csv"):
        pass
    (tmp_path / "folder.csv").mkdir()
    with (
        pytest.raises(OutputError, match=r"folder\.csv: cannot be written"),
        published(f"{tmp_path}/folder.csv") as file,
    ):
        file.write(b"x")
