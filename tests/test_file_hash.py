"""A file's hash, which follows what is written to it."""

import hashlib
import os

import pytest

from corm_batch.file_hash import file_sha256


def test_a_hash_is_that_of_the_file_as_it_is_now(tmp_path):
    file = tmp_path / "weights"
    for content in (b"", b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, ns=(0, 1000 + content[-1] if content else 0))  # two writes may fall into one tick
        assert file_sha256(str(file)) == file_sha256(file) == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "none")
