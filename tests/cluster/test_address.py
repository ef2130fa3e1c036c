"""Where a cluster takes jobs: a URL without credentials."""

import pytest

from corm_batch.cluster.address import valid_address


@pytest.mark.parametrize("url", ["http://127.0.0.1:8265", "https://ray.example", "http://[::1]:8265"])
def test_urls(url):
    assert valid_address(url) == valid_address(f"{url}/") == url


@pytest.mark.parametrize(
    "wrong", ["", "auto", "head:8265", "ray://head:10001", "http://", "http://a b", "http://h/x?y"]
)
def test_what_is_no_url(wrong):
    with pytest.raises(ValueError, match=r"expected the URL .*8265"):
        valid_address(wrong)


def test_credentials_are_refused_and_not_repeated():
    with pytest.raises(ValueError, match="credentials in a URL") as error:
        valid_address("http://user:canary@head:8265")
    assert "canary" not in str(error.value)
