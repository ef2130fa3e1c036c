"""DOCX files: paragraphs and tables in their order, headings marked, pages where the file says that they end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from corm_batch.data.readers.base import Content, Page, Reader, clean

_HEADING = "Heading "


class Docx(Reader, name="docx"):
    """Word's DOCX; its pages are those of when it was last saved, and without such marks it has none."""

    suffixes = (".docx",)
    needs = ("docx",)

    def read(self, content: bytes) -> Content:
        """The text of its body; what stands in headers, footers and notes is left out."""
        from docx import Document as open_docx
        from docx.oxml.ns import qn

        document = open_docx(io.BytesIO(content))
        body = document.element.body
        marks = list(body.iter(qn("w:lastRenderedPageBreak")))
        ends = marks or [mark for mark in body.iter(qn("w:br")) if mark.get(qn("w:type")) == "page"]
        pages: list[list[str]] = [[]]
        for block in document.iter_inner_content():
            for kind, text in _said(block, {id(end) for end in ends}):
                pages.append([]) if kind == "page" else pages[-1].append(text)
        title = document.core_properties.title
        texts = [clean("\n\n".join(filter(None, map(str.strip, page)))) for page in pages]
        return Content([Page(text) for text in texts], clean(title).strip() or None, is_paged=bool(ends))


def _said(block: Any, ends: set[int]) -> Iterator[tuple[str, str]]:
    """What a paragraph or a table says, in pieces, and where in it a page ends."""
    if hasattr(block, "rows"):
        yield "text", "\n".join(" | ".join(_cells(row)) for row in block.rows)
        yield from (("page", "") for element in block._element.iter() if id(element) in ends)
        return
    style = block.style.name if block.style is not None else ""
    level = style.removeprefix(_HEADING)
    mark = "#" * int(level) + " " if style.startswith(_HEADING) and level.isdigit() else ""
    piece = ""
    for item in block.iter_inner_content():
        for run in getattr(item, "runs", [item]):
            for element in run._element:
                if id(element) in ends:
                    yield "text", mark + piece if piece.strip() else ""
                    yield "page", ""
                    piece = ""
                else:
                    piece += _of_element(element)
    yield "text", mark + piece if piece.strip() else ""


def _cells(row: Any) -> list[str]:
    """The texts of a row's cells, one that spans several once."""
    cells = {id(cell._tc): " ".join(cell.text.split()) for cell in row.cells}
    return list(cells.values())


def _of_element(element: Any) -> str:
    """What a part of a run says: text, a tab or the end of a line."""
    name = element.tag.rpartition("}")[2]
    return {"t": element.text or "", "tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}.get(name, "")
