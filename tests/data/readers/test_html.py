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


def text_of(page):
    (found,) = Html().read(page if isinstance(page, bytes) else page.encode()).pages
    return found.text


def rows_of(page):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text_of(page).splitlines()]
    return [line for line in lines if set(line) not in ({"---"}, {""})]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>10<sup>6</sup> m of H<sub>2</sub>O</p>", "10^6^ m of H~2~O"),
        ('<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n<html><body><p>text</p></body></html>', "text"),
        ("<!ELEMENT x><!-- no --><p>te<?php echo 1 ?>xt", "text"),
        ("<ul><li>a<li>b<ul><li>c<li>d</ul><li>e</ul>", "* a\n* b\n  + c\n  + d\n* e"),
        ("<ol><li><b>a</b> x<li>b</li><li>c</ol><p>end", "1. **a** x\n2. b\n3. c\n\nend"),
        (b'<meta charset="iso-8859-1"><p>\x93hi\x94 \x80 caf\xe9', "\u201chi\u201d \u20ac caf\u00e9"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=Latin1"><p>it\x92s', "it\u2019s"),
        (b'\xef\xbb\xbf<meta charset="iso-8859-1"><p>caf\xc3\xa9', "caf\u00e9"),
        ('<meta charset="utf-8"><p>caf\u00e9', "caf\u00e9"),
        (b'<meta charset="iso-8859-2"><p>\xb1', "\u0105"),
    ],
)
def test_what_a_browser_shows(page, text):
    assert text_of(page) == text


@pytest.mark.parametrize(
    ("page", "rows"),
    [
        (
            "<table><tr><th>Year<th>Region<th>Sales<tr><td rowspan=2>2020<td>EU<td>5<tr><td>US<td>7"
            "<tr><td>2021<td>EU<td>9</table>",
            [["Year", "Region", "Sales"], ["2020", "EU", "5"], ["2020", "US", "7"], ["2021", "EU", "9"]],
        ),
        (
            "<table><tr><td>a</td><td rowspan='3'>b</td><td>c</td></tr>"
            "<tr><td>d</td><td>e</td></tr><tr></tr><tr><td>f</table>",
            [["a", "b", "c"], ["d", "b", "e"], ["", "b"], ["f"]],
        ),
        (
            "<table><tr><td rowspan=0 colspan=2>a<td>b<tr><td>c<tr><td>d</table>",
            [["a", "", "b"], ["a", "", "c"], ["a", "", "d"]],
        ),
        (
            "<table><thead><tr><th rowspan=9>h<th>i<tbody><tr><td>1<td>2<tfoot><tr><td>3<td>4</table>",
            [["h", "i"], ["1", "2"], ["3", "4"]],
        ),
        (
            f"<table><tr><td rowspan=2>{'x' * 2000}<td>a<tr><td>b</table>",
            [["x" * 2000, "a"], ["", "b"]],
        ),
        (
            "<table><tr><td rowspan=x>a</td><td>b</td></tr><tr><td><i>c</i><td>d</td></tr></table>",
            [["a", "b"], ["*c*", "d"]],
        ),
    ],
)
def test_a_value_stands_in_its_row_and_column(page, rows):
    assert rows_of(page) == rows


def test_many_cells_without_end_tags_are_read():
    assert rows_of("<table>" + "<tr><td>a<td>b" * 1000 + "</table>") == [["a", "b"]] * 1000
