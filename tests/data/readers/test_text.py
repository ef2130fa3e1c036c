import codecs

import pytest

from corm_batch.data.readers.base import Content, Page
from corm_batch.data.readers.text import Text

TEXT = "# Caf\u00e9\r\n\r\n* one\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_as_it_stands_in_any_encoding_that_says_so(encoding):
    assert Text().read(TEXT.encode(encoding)) == Content([Page(TEXT)])
    assert Text().read(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")).pages[0].text == TEXT


def test_another_encoding_is_an_error():
    with pytest.raises(UnicodeDecodeError):
        Text().read(TEXT.encode("latin-1"))


def test_what_is_no_text_is_an_error():
    for encoding, name in {"utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE", "utf-32-le": "UTF-32LE"}.items():
        with pytest.raises(ValueError, match=f"it holds {name} without a byte order mark, not UTF-8"):
            Text().read("hello, world".encode(encoding))
    for content, place in ((bytes(20), 0), (b"x" * 99 + b"\0", 99), ("ab\0".encode("utf-16"), 2)):
        with pytest.raises(ValueError, match=f"it is not text: character {place} is NUL"):
            Text().read(content)
