"""DOCX files: paragraphs and tables in their order, headings marked, pages where the file says that they end."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from corm_batch.data.readers.base import Content, Page, Reader
from corm_batch.harmless import in_utf8

_HEADING = "Heading "
# What stands in no text: deleted or moved away, kept for old programs, instructions and properties.
_UNREAD = {"del", "moveFrom", "Fallback", "instrText", "delText", "delInstrText", "rt"} | {
    *("rPr", "pPr", "sectPr", "tblPr", "tblGrid", "tblPrEx", "trPr", "tcPr", "sdtPr", "sdtEndPr"),
}
_SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MATH_SIGNS = {"den": "/", "sup": "^", "sub": "_"}  # before the parts of a formula that are called so
# Characters that no XML can hold, for what is found in the midst of text.
_PAGE_END, _SUPERSCRIPT, _SUBSCRIPT = "\f", "\x01", "\x02"
_RAISED = {"superscript": _SUPERSCRIPT, "subscript": _SUBSCRIPT}


class Docx(Reader, name="docx"):
    """Word's DOCX; its pages are those of when it was last saved, and without such marks it has none."""

    suffixes = (".docx",)
    needs = ("docx",)

    def read(self, content: bytes) -> Content:
        """The text of its body with all changes accepted; that of headers, footers and notes is left out."""
        from docx import Document as open_docx

        document = open_docx(io.BytesIO(content))
        body = document.element.body
        rendered = any(_name(element) == "lastRenderedPageBreak" for element in body.iter())
        walk = _Walk(document, "lastRenderedPageBreak" if rendered else "br")
        pages: list[list[str]] = [[]]
        for text in walk.blocks(body):
            first, *others = text.split(_PAGE_END)
            pages[-1].append(first)
            pages.extend([other] for other in others)
        title = document.core_properties.title
        texts = [_finished("\n\n".join(filter(None, map(str.strip, page)))) for page in pages]
        is_paged = len(pages) > 1 or rendered
        return Content([Page(text) for text in texts], in_utf8(title).strip() or None, is_paged=is_paged)


class _Walk:
    """A walk through a document's elements, whatever wraps its text: content controls, tracked changes, fields."""

    def __init__(self, document: Any, page_end: str) -> None:
        self._document = document
        self._page_end = page_end

    def blocks(self, element: Any) -> Iterator[str]:
        """The texts of the paragraphs and tables in an element, in their order."""
        for child in _read_of(element):
            if _name(child) == "p":
                yield self._paragraph(child)
            elif _name(child) == "tbl":
                yield self._table(child)
            else:
                yield from self.blocks(child)

    def _paragraph(self, paragraph: Any) -> str:
        """Its text; each piece of a heading, should a page end in it, is marked."""
        from docx.text.paragraph import Paragraph

        style = Paragraph(paragraph, self._document).style
        name = (style.name or "") if style is not None else ""
        level = name.removeprefix(_HEADING)
        mark = "#" * int(level) + " " if name.startswith(_HEADING) and level.isdigit() else ""
        pieces = self._inline(paragraph).split(_PAGE_END)
        return _PAGE_END.join(mark + piece.lstrip() if mark and piece.strip() else piece for piece in pieces)

    def _table(self, table: Any) -> str:
        """Its rows, a line each; a row that pages end in is on that where it begins."""
        lines, above = [], dict[int, str]()
        for row in _inner(table, "tr"):
            if any(_name(change) == "del" for change in _property(row, "trPr")):
                continue
            texts, above = self._cells(row, above)
            filled = [text.lstrip(" ") for text in texts if text.strip(f" {_PAGE_END}")]
            ends = max((text.count(_PAGE_END) for text in texts), default=0)
            before = 1 if filled and filled[0].startswith(_PAGE_END) else 0
            line = " | ".join(" ".join(text.replace(_PAGE_END, " ").split()) for text in texts)
            lines.append(_PAGE_END * before + line + _PAGE_END * (ends - before))
        return "\n".join(lines)

    def _cells(self, row: Any, above: dict[int, str]) -> tuple[list[str], dict[int, str]]:
        """The texts of a row's cells, and the same by their columns; a cell that goes on says what it said above."""
        texts, column = dict[int, str](), _number(_property(row, "trPr"), "gridBefore", 0)
        for cell in _inner(row, "tc"):
            properties = _property(cell, "tcPr")
            merge = next((one for one in properties if _name(one) == "vMerge"), None)
            if merge is not None and _value(merge) != "restart":
                texts[column] = above.get(column, "").replace(_PAGE_END, "")
            else:
                blocks = (" ".join(re.split(r"[^\S\f]+", text)).replace("\n", "; ") for text in self._in_cell(cell))
                texts[column] = " ".join(filter(None, blocks))
            column += _number(properties, "gridSpan", 1)
        return list(texts.values()), texts

    def _in_cell(self, element: Any) -> Iterator[str]:
        """The texts of what stands in a cell, without marks of headings; a table's rows are parted by semicolons."""
        for child in _read_of(element):
            if _name(child) == "p":
                yield self._inline(child).strip(" \t\n")
            elif _name(child) == "tbl":
                yield self._table(child).replace("\n", "; ")
            else:
                yield from self._in_cell(child)

    def _inline(self, element: Any) -> str:
        """The text of a paragraph, or of anything inside one."""
        said = ""
        for child in _read_of(element):
            name = _name(child)
            if name == self._page_end and (name != "br" or _attribute(child, "type") == "page"):
                said += _PAGE_END
            elif name == "t":
                said += child.text or ""
            elif name in _SIGNS:
                said += _SIGNS[name]
            elif name == "p":  # of a text box
                said += "\n" + self._inline(child)
            elif name == "tbl":
                said += "\n" + self._table(child)
            elif child.tag.startswith(_MATH):
                said += self._of_formula(child, name)
            else:
                said += self._inline(child)
        if _name(element) == "r" and said.strip():
            raised = next((_value(one) for one in _property(element, "rPr") if _name(one) == "vertAlign"), None)
            sign = _RAISED.get(raised or "", "")
            return sign + said + sign
        return said

    def _of_formula(self, element: Any, name: str) -> str:
        """A part of a formula, in parentheses where it would else run into others."""
        said = self._inline(element)
        if name == "num" or name in _MATH_SIGNS:
            said = f"({said})" if len(said) > 1 and not said.isalnum() else said
        return _MATH_SIGNS.get(name, "") + said if said else ""


def _finished(text: str) -> str:
    """A text with signs for what is raised or lowered in it, those of neighbours as one: 10^6^, H~2~O."""
    for mark, sign in ((_SUPERSCRIPT, "^"), (_SUBSCRIPT, "~")):
        text = text.replace(mark * 2, "").replace(mark, sign)
    return in_utf8(text)


def _read_of(element: Any) -> list[Any]:
    """The elements in one whose text is read."""
    return [child for child in element if isinstance(child.tag, str) and _name(child) not in _UNREAD]


def _inner(element: Any, name: str) -> Iterator[Any]:
    """The rows of a table or the cells of a row, whatever wraps them."""
    for child in _read_of(element):
        if _name(child) == name:
            yield child
        elif _name(child) != "tbl":
            yield from _inner(child, name)


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _property(element: Any, name: str) -> list[Any]:
    """What an element's properties of a name hold."""
    return [one for child in element if _name(child) == name for one in child]


def _attribute(element: Any, name: str) -> str | None:
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def _value(element: Any) -> str | None:
    return _attribute(element, "val")


def _number(properties: list[Any], name: str, default: int) -> int:
    """The number that a property says, or another one where it says none."""
    said = next((_value(one) for one in properties if _name(one) == name), None) or ""
    return int(said) if said.isdigit() else default
