import io
import re

import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject, TextStringObject

from corm_batch.data.readers.base import Page
from corm_batch.data.readers.pdf import Pdf
from tests.document_files import PICTURE, pdf


def encrypted(content, password):
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_pages_in_their_order():
    found = Pdf().read(pdf("First line.\nSecond line.", "", PICTURE, title="A title"))
    assert [(page.text, page.has_picture) for page in found.pages] == [
        *(("First line.\nSecond line.", False), ("", False), ("", True)),
    ]
    assert (found.title, found.is_paged) == ("A title", True)
    assert Pdf().read(pdf("x")).title is None
    assert Pdf().read(pdf()).pages == []


def test_a_password_is_needed_or_not():
    assert Pdf().read(encrypted(pdf("open to all"), "")).pages[0].text == "open to all"
    with pytest.raises(ValueError, match="encrypted, and needs a password"):
        Pdf().read(encrypted(pdf("secret"), "pw"))


def test_a_file_that_is_cut_is_an_error():
    with pytest.raises(Exception, match=r"."):
        Pdf().read(pdf("some text")[:200])


def second_replaced(pattern, by):
    """A PDF of three pages with other bytes where the second match of a pattern was."""
    content = pdf("first", "second", "third")
    match = list(re.finditer(pattern, content))[1]
    return content[: match.start()] + by + content[match.end() :]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (second_replaced(rb"<< /Length \d+", b"<< /Filter /Nope /Length 45"), "Nope"),
        (second_replaced(rb"/Resources << /Font << /F 3 0 R >> >>", b"/Resources null"), "it names no fonts"),
        (second_replaced(rb"/Resources << /Font << /F 3 0 R >> >>", b"/Resources 7"), "it names no fonts"),
    ],
)
def test_a_page_that_cannot_be_read_costs_no_other(content, problem):
    first, second, third = Pdf().read(content).pages
    assert (first, third) == (Page("first"), Page("third"))
    assert second.text == ""
    assert re.search(problem, second.problem)


def test_resources_that_are_null_are_those_of_all_pages():
    content = second_replaced(rb"/Resources << /Font << /F 3 0 R >> >>", b"/Resources null")
    content = content.replace(b"/Count 3", b"/Count 3 /Resources << /Font << /F 3 0 R >> >>")
    assert [page.text for page in Pdf().read(content).pages] == ["first", "second", "third"]


def test_damaged_metadata_costs_the_title_only():
    found = Pdf().read(pdf("text", title="A").replace(b"<< /Title (A) >>", b"[ 1 2 ]"))
    assert (found.title, found.pages) == (None, [Page("text")])


def with_annotations(*annotations):
    """A PDF of a page "Name:" with these annotations, of fields where they say nothing else."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("Name:", "next"))))
    made = ArrayObject()
    for values in annotations:
        found = DictionaryObject({NameObject("/Subtype"): NameObject("/Widget")})
        found.update({NameObject(name): value for name, value in values.items()})
        made.append(writer._add_object(found))
    writer.pages[0][NameObject("/Annots")] = made
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_what_has_been_filled_in_is_read():
    text, name, number = TextStringObject, NameObject, NumberObject
    group = DictionaryObject({name("/T"): text("size"), name("/FT"): name("/Btn"), name("/V"): name("/Large")})
    content = with_annotations(
        {"/FT": name("/Tx"), "/T": text("name"), "/V": text("Alice \u0141")},
        {"/Parent": group, "/AS": name("/Large")},
        {"/Parent": group, "/AS": name("/Off")},
        {"/FT": name("/Ch"), "/T": text("langs"), "/V": ArrayObject([text("en"), text("de")])},
        {"/FT": name("/Btn"), "/T": text("agreed"), "/V": name("/Off")},
        {"/FT": name("/Tx"), "/T": text("empty")},
        {"/FT": name("/Tx"), "/T": text("code"), "/V": text("secret"), "/Ff": number(1 << 13)},
        {"/FT": name("/Tx"), "/T": text("unseen"), "/V": text("x"), "/F": number(2)},
        {"/Subtype": name("/FreeText"), "/Contents": text("written on it")},
        {"/Subtype": name("/Link"), "/Contents": text("a link")},
    )
    page, following = Pdf().read(content).pages
    assert page.text.split("\n") == ["Name:", "name: Alice \u0141", "size: Large", "langs: en, de", "written on it"]
    assert following.text == "next"
    damaged = Pdf().read(with_annotations({"/F": text("no flags")})).pages[0]
    assert damaged.text.startswith("Name:\n[what has been filled in cannot be read: ")
