import pytest

from corm_batch.data.uri import is_s3, resolve_uri
from corm_batch.errors import SpecError


def test_relative_paths_count_from_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve_uri("in/../papers") == f"{tmp_path}/papers"
    assert resolve_uri("~/papers") == "/home/someone/papers"
    assert resolve_uri("file:///data/x") == "/data/x"


def test_s3_stays_as_it_is():
    assert resolve_uri("s3://bucket/a/*.parquet") == "s3://bucket/a/*.parquet"
    assert is_s3("s3://bucket/a")
    assert not is_s3("/data/s3://bucket")


@pytest.mark.parametrize("uri", ["", "  ", "gs://bucket/x", "https://host/x", "s3://", "s3:///key", "a\0b"])
def test_anything_else_is_refused(uri):
    with pytest.raises(SpecError, match="expected"):
        resolve_uri(uri)


def test_credentials_are_refused():
    with pytest.raises(SpecError, match="credentials"):
        resolve_uri("s3://key:secret@bucket/x")
    assert resolve_uri("s3://bucket/me@home") == "s3://bucket/me@home"
