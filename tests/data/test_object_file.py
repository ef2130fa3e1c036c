import io
import random

import pytest

from corm_batch.data.filesystem import filesystem, write_whole
from corm_batch.data.object_file import ObjectFile

pytestmark = pytest.mark.s3


def test_it_reads_as_a_file_does(bucket):
    content = random.randbytes(1000)
    write_whole(f"{bucket}/a", content)
    ours, theirs = ObjectFile(*filesystem(f"{bucket}/a")), io.BytesIO(content)
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


def test_an_object_that_is_replaced_meanwhile_is_an_error(bucket):
    write_whole(f"{bucket}/a", b"old" * 100)
    with ObjectFile(*filesystem(f"{bucket}/a")) as file:
        assert file.read(3) == b"old"
        write_whole(f"{bucket}/a", b"new" * 100)
        with pytest.raises(OSError):
            file.read(3)


def test_nothing_there(bucket):
    with pytest.raises(FileNotFoundError):
        ObjectFile(*filesystem(f"{bucket}/a"))
