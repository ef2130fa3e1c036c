import io

import pytest
from pypdf import PdfReader, PdfWriter

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
