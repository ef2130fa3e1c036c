"""A token of this process's own, and whose token is meant in a refusal."""

import os

import pytest

from corm_batch.cluster import token
from corm_batch.cluster.token import own_token, refused_token


@pytest.fixture(autouse=True)
def nothing_set_up(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(token, "_has_token", lambda loader: "RAY_AUTH_TOKEN" in os.environ)


def test_one_of_its_own_lasts_as_long_as_the_cluster():
    with own_token():
        first = os.environ["RAY_AUTH_TOKEN"]
    assert "RAY_AUTH_TOKEN" not in os.environ
    with own_token():
        assert os.environ["RAY_AUTH_TOKEN"] != first


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "given"), ("RAY_AUTH_TOKEN_PATH", "/a/file")]
)
def test_what_is_set_up_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with own_token():
        assert dict(os.environ) == before
    assert dict(os.environ) == before


def test_a_refusal_names_where_the_token_came_from(monkeypatch):
    assert "from the file ~/.ray/auth_token" in refused_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/a/file")
    assert "from RAY_AUTH_TOKEN_PATH" in refused_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary")
    assert "from RAY_AUTH_TOKEN." in refused_token()
    assert "canary" not in refused_token()
