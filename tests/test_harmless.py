import pytest

from corm_batch.harmless import harmless, in_utf8, without_credentials

SECRETS = [
    "s3://KEY:SE/CRET@bucket/x",
    "s3://KEY:SE/CR/ET@bucket",
    "s3://key:SECRET@bucket/me@home",
    "s3://KEY%3ASE%2FCRET%40bucket/x",
    "s3://KEY%3aSE/CRET%40bucket/x",
    "s3://SECRET@bucket/x",
    "s3://KEY:SECRET/bucket",
    "s3a://KEY:SE/CRET@bucket",
    "S3://KEY:SE/CRET@bucket",
    "s3:/KEY:SE/CRET@bucket",
    "s3:///KEY:SE/CRET@bucket",
    "s3://AKIAIOSFODNN7EXAMPLE/SECRET@bucket/x",
    "https://user:SECRET@host/x",
    "https://SECRET@host/x",
    "https://user:SE/CRET@host:443/x",
    "http://host:9000/b/x?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET",
    "https://host/x?list=1&sig=1&AWSAccessKeyId=SECRET",
    "https://account.blob.host/c?sv=1&access_token=SECRET",
    "https://account.blob.core.windows.net/box/a.jsonl?sv=2024-11-04&sp=r&sig=SE/CRET%3D",
    "gs://user:SECRET@bucket",
    "abfss://user:SECRET@account.dfs.core.windows.net/x",
]
LEGAL = [
    "s3://bucket/me@home/x.parquet",
    "s3://my.bucket-1/a:b/c@d",
    "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/ap/me@home",
    "http://127.0.0.1:8265/x",
    "http://head:8265: the cluster refuses the token; see http://head:8265.",
    "http://host:8265/me@home",
    "/data/a@b/c:d.parquet",
    "abfss://container@account.dfs.core.windows.net/x",
    "az://container@account.blob.core.windows.net/x",
    "https://host/x?page=2&sigma=1",
    "it failed: see https://host/docs",
    "policy: {name: corm} @ 12:30",
]


@pytest.mark.parametrize("uri", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "got '{}'", 'cannot connect to "{}": refused', "--set source.uri={} is wrong"]
)
def test_no_part_of_a_secret_is_shown(uri, around):
    text = without_credentials(around.format(uri))
    assert "***" in text
    assert not any(part in text for part in ("SE/", "CR", "ET@", "SECRET", "%2F"))


def test_what_utf8_cannot_hold_is_replaced_by_what_no_text_has():
    assert in_utf8("a\ud800b\udce9?\U0001f600") == "a\ufffdb\ufffd?\U0001f600"


@pytest.mark.parametrize("text", LEGAL)
def test_what_is_no_secret_is_shown_as_it_is(text):
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b]0;title\x07", "a\\x1b[31mred\\x1b]0;title\\x07"),
        ("c1 \x9b31m \x7f", "c1 \\x9b31m \\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("bad\udcff name", "bad\\udcff name"),
        ("a\rb", "a\\rb"),
        ("Z\u00fcrich \u6771\u4eac 1\u00a0000\n\tline", "Z\u00fcrich \u6771\u4eac 1\u00a0000\n\tline"),
    ],
)
def test_characters_that_a_terminal_obeys_are_spelled_out(text, shown):
    assert harmless(text) == shown
