"""Text and Markdown files, as they stand."""

from __future__ import annotations

import codecs

from corm_batch.data.readers.base import Content, Page, Reader
from corm_batch.data.sources.foreign_json import foreign_encoding

_MARKED = {  # the longer ones begin like the shorter ones
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Text(Reader, name="text"):
    """Text in UTF-8, or in what its byte order mark says; Markdown is text."""

    suffixes = (".txt", ".text", ".md", ".markdown")

    def read(self, content: bytes) -> Content:
        """The text.

        Raises:
            ValueError: it is in another encoding that nothing says, or no text at all.
        """
        encoding = next((name for mark, name in _MARKED.items() if content.startswith(mark)), None)
        if encoding is None and content[:64].strip(b"\0") and (found := foreign_encoding(content[:64])):
            raise ValueError(f"it holds {found} without a byte order mark, not UTF-8; convert it")
        text = content.decode(encoding or "utf-8-sig")
        if (place := text.find("\0")) >= 0:
            raise ValueError(f"it is not text: character {place} is NUL")
        return Content([Page(text)])
