import errno
import io
import random

import pytest

from corm_batch.data import patience
from corm_batch.data.filesystem import filesystem, write_whole
from corm_batch.data.object_file import ObjectFile


def test_it_reads_as_a_file_does(place):
    content = random.randbytes(1000)
    write_whole(f"{place}/a", content)
    ours, theirs = ObjectFile(*filesystem(f"{place}/a")), io.BytesIO(content)
    with ours:
        assert (ours.readable(), ours.seekable(), ours.writable()) == (True, True, False)
        for _ in range(30):
            offset, size = random.randrange(1000), random.choice([None, -1, 0, 1, 17, 5000])
            assert ours.seek(offset) == theirs.seek(offset)
            assert ours.read(size) == theirs.read(size)
            assert ours.tell() == theirs.tell()
        ours.seek(-7, io.SEEK_END)
        assert ours.readall() == content[-7:]
        ours.seek(3)
        assert io.BufferedReader(ours, 64).read() == content[3:]
    assert ours.closed


@pytest.mark.s3
def test_an_object_that_is_replaced_meanwhile_is_an_error(bucket):
    write_whole(f"{bucket}/a", b"old" * 100)
    with ObjectFile(*filesystem(f"{bucket}/a")) as file:
        assert file.read(3) == b"old"
        write_whole(f"{bucket}/a", b"new" * 100)
        with pytest.raises(OSError):
            file.read(3)


def test_nothing_there(place):
    with pytest.raises(FileNotFoundError):
        ObjectFile(*filesystem(f"{place}/a"))


def test_a_read_that_fails_is_made_again_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    (tmp_path / "a").write_bytes(b"0123456789")
    with ObjectFile(*filesystem(f"{tmp_path}/a")) as file:
        read, faults = file._file.read, [OSError(errno.EIO, "disk"), OSError(errno.ESTALE, "stale")]

        def failing(size):
            if faults:
                raise faults.pop()
            return read(size)

        monkeypatch.setattr(file._file, "read", failing)
        file.seek(2)
        assert file.read(3) == b"234"
        assert not faults
