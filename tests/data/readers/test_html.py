import pytest

from corm_batch.data.readers.base import Content, Page
from corm_batch.data.readers.html import Html

PAGE = """<!DOCTYPE html><html><head><title> A
 title </title><style>p { color: red }</style></head><body><h1>Head</h1><script>evil()</script>
<p>One <b>bold</b>
word, <a href="http://x/">linked</a>.<br>Line &amp; <img src="data:xx" alt="a picture"></p>
<ul><li>a</li><li>b_c</li></ul><table><tr><th>x</th><th>y</th></tr><tr><td>1</td><td>2</td></tr></table>
<noscript>no</noscript><svg><text>no</text></svg></body></html>"""


def test_structure_stays_and_what_nobody_reads_goes():
    found = Html().read(PAGE.encode())
    (page,) = found.pages
    assert (found.title, found.is_paged) == ("A title", False)
    assert page.text.split("\n\n") == [
        "# Head",
        "One **bold**\nword, linked.  \nLine & a picture",
        "* a\n* b_c",
        "| x | y |\n| --- | --- |\n| 1 | 2 |",
    ]


def test_other_encodings_and_damage():
    said = '<meta charset="iso-8859-1"><p>Caf\u00e9'.encode("latin-1")
    assert Html().read(said) == Content([Page("Caf\u00e9")])
    assert Html().read(b"<p>un<b>closed <div>tags</p>").pages[0].text == "un**closed\n\ntags**"
    assert Html().read(b"").pages == [Page("")]
    assert Html().read(b"plain, no tags").pages == [Page("plain, no tags")]


@pytest.mark.parametrize(
    "page",
    [
        "<html><head><title>T</title><style>no</style><body><p>hello world</p></body></html>",
        "<html><head><title>T</title><meta name=x content=no><script>no()</script><p>hello world",
        "<head><title>T</title><link rel=x href=no><body>hello world",
    ],
)
def test_a_head_that_nothing_ends_takes_no_text_along(page):
    assert Html().read(page.encode()) == Content([Page("hello world")], "T")
