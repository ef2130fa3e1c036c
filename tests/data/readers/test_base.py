import pytest

from corm_batch.data.readers.base import Content, Page, Reader
from corm_batch.harmless import in_utf8


def test_readers_are_found_and_no_two_take_one_name():
    found = Reader.registered()
    assert list(found) == ["docx", "html", "pdf", "text"]
    suffixes = [suffix for reader in found.values() for suffix in reader.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)


def test_what_is_not_installed_is_told(monkeypatch):
    reader = Reader.from_spec({"name": "pdf"})
    assert reader.missing() == []
    monkeypatch.setattr(type(reader), "needs", ("pypdf", "no_such_module"))
    assert reader.missing() == ["no_such_module"]


@pytest.mark.parametrize("name", ["pdf", "docx", "html", "text"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"%PDF-1.7\n" + b"\x01" * 500, b"PK\x03\x04" + b"\x00" * 99])
def test_garbage_is_content_or_an_error(name, content):
    try:
        found = Reader.from_spec({"name": name}).read(content)
    except Exception as error:
        found = Content([Page(in_utf8(str(error)))])
    assert isinstance(found, Content)
    assert all(isinstance(page, Page) and in_utf8(page.text) == page.text for page in found.pages)
