"""Text and Markdown files, as they stand."""

from __future__ import annotations

import codecs

from corm_batch.data.readers.base import Content, Page, Reader

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
        """The text."""
        encoding = next((name for mark, name in _MARKED.items() if content.startswith(mark)), "utf-8-sig")
        return Content([Page(content.decode(encoding))])
