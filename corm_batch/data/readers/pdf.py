"""PDF files, page by page."""

from __future__ import annotations

import io
from typing import Any

from corm_batch.data.readers.base import Content, Page, Reader, clean


class Pdf(Reader, name="pdf"):
    """PDF with text; of scanned pages nothing can be read."""

    suffixes = (".pdf",)
    needs = ("pypdf",)

    def read(self, content: bytes) -> Content:
        """The text of each page, in the order of the file."""
        from pypdf import PdfReader

        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("it is encrypted, and needs a password")
        pages = [Page(clean(page.extract_text()).strip(), _has_picture(page)) for page in reader.pages]
        title = reader.metadata.title if reader.metadata else None
        return Content(pages, clean(str(title)).strip() or None if title else None, is_paged=True)


def _has_picture(page: Any) -> bool:
    """Whether a page draws a picture, or something that may hold one."""
    resources = page.get("/Resources")
    drawn = resources.get_object().get("/XObject") if resources is not None else None
    return drawn is not None and bool(drawn.get_object())
