import pytest

from corm_batch.data.uri import is_s3, resolve_uri
from corm_batch.errors import SpecError
from corm_batch.registry import shown
from tests.test_harmless import SECRETS


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


@pytest.mark.parametrize("uri", SECRETS)
def test_credentials_are_refused_and_not_repeated(uri):
    with pytest.raises(SpecError, match="credentials") as caught:
        resolve_uri(uri)
    assert str(caught.value) == "credentials in a URI: leave them to the environment or an AWS profile"
    assert "CRET" not in shown({"source": [uri + "/long" * 60]})


@pytest.mark.parametrize(
    "uri", ["s3:/bucket/x", "s3:bucket", "https:/host/x", "s3://bu cket/x", "s3://b%41/x", "file:/data"]
)
def test_a_uri_that_is_nearly_one_is_not_taken_for_a_path(uri):
    with pytest.raises(SpecError, match="expected"):
        resolve_uri(uri)


def test_an_at_sign_in_a_name_is_no_credential():
    assert resolve_uri("s3://bucket/me@home") == "s3://bucket/me@home"
    access_point = "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/ap/x"
    assert resolve_uri(access_point) == access_point
    assert resolve_uri("/data/me@home/a:b") == "/data/me@home/a:b"
