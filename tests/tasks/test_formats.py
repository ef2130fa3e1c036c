"""The keyword `format`: what is one, as RFC 3339, RFC 3986 and RFC 5321 have it."""

import pytest

from corm_batch.tasks.formats import FORMATS


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date-time", ["2020-02-29T23:59:59Z", "1990-12-31T23:59:60z", "2020-01-01t00:00:00.25+05:30"],
         ["yesterday", "2020-02-30T00:00:00Z", "2020-01-01T25:00:00Z", "2020-01-01T00:00:00", "1577836800"]),
        ("time", ["10:15:00Z", "10:15:00.5-03:00"], ["25:99", "24:00:00Z", "10:60:00Z", "noon", "10:15:00"]),
        ("date", ["2020-02-29"], ["2020-02-30", "March 3, 2020"]),
        ("duration", ["P3DT2H", "PT0.5S", "P2W"], ["P", "P1DT", "three days", "3D"]),
        ("uri", ["https://example.org/a?b=c#d", "mailto:a@example.org", "urn:isbn:0451450523", "https://a/%C3%A9"],
         ["https:", "https://", "a:?b", "not a uri", "example.org", "http://a b", "https://a/%zz", "https://a/é"]),
        ("hostname", ["example.org", "a-b.c"], ["-a.org", "a..b", "a b", "x" * 64]),
        ("email", ["a.b@example.org", "a+b/c@x", '"a b"@c.org', "a@[10.0.0.1]", "jürgen@bücher.de"],
         ["none", "office @ home", "a@b@c", "call a@example.org", "a@example.org.", "<a@example.org>",
          "a@b.org, c@d.org", "mailto:a@example.org", "a@b..org", ".a@b.org", "a@b.org;"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["1234"]),
        ("ipv4", ["10.0.0.1"], ["999.1.1.1"]),
        ("unheard-of", ["anything"], []),
    ],
)  # fmt: skip
def test_only_what_has_the_form_passes(name, right, wrong):
    assert [one for one in right if not FORMATS.conforms(one, name)] == []
    assert [one for one in wrong if FORMATS.conforms(one, name)] == []


@pytest.mark.parametrize("name", ["date-time", "uri", "email"])
def test_what_is_no_text_has_no_format(name):
    assert FORMATS.conforms(7, name)
