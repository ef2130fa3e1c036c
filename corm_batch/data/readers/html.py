"""HTML files as Markdown: headings, lists and tables stay; scripts, styles, pictures and where links lead go."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from corm_batch.data.readers.base import Content, Page, Reader
from corm_batch.harmless import in_utf8

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

_UNREAD = ("title", "script", "style", "template", "noscript", "svg", "iframe", "object")
_LONG_GAP = re.compile(r"\n{3,}")
_LATIN = ("iso-8859-1", "iso8859-1", "iso_8859-1", "latin-1", "latin1", "l1", "ascii", "us-ascii")
_CELLS, _ROWS = ("td", "th"), ("td", "th", "tr")
_GROUPS = ("thead", "tbody", "tfoot")
_ENDED_BY = {  # what begins, and what it ends when that has no end tag
    **dict.fromkeys(("li",), ("li",)),
    **dict.fromkeys(("dt", "dd"), ("dt", "dd")),
    **dict.fromkeys(("option",), ("option",)),
    **dict.fromkeys(_CELLS, _CELLS),
    **dict.fromkeys(("tr",), _ROWS),
    **dict.fromkeys(_GROUPS, (*_ROWS, *_GROUPS)),
}
_HOLDERS = ("table", "ul", "ol", "menu", "dl", "select")
_REPEATED = 1000  # characters; a longer cell over several rows stands in the first one only


class Html(Reader, name="html"):
    """HTML, in the encoding that it says."""

    suffixes = (".html", ".htm", ".xhtml")

    def read(self, content: bytes) -> Content:
        """What a browser shows of it, and its title."""
        from bs4.element import Declaration, ProcessingInstruction
        from markdownify import MarkdownConverter

        soup = _parsed(content)
        title = " ".join(soup.title.get_text().split()) if soup.title else ""
        for element in soup(_UNREAD):
            element.decompose()
        for unseen in soup(string=lambda text: isinstance(text, Declaration | ProcessingInstruction)):
            unseen.extract()
        for picture in soup("img"):
            picture.replace_with(str(picture.get("alt") or ""))
        for table in soup("table"):
            _fill_rows(table)
        as_markdown = MarkdownConverter(
            heading_style="ATX",
            strip=["a"],
            escape_misc=False,
            escape_underscores=False,
            escape_asterisks=False,
            sup_symbol="^",
            sub_symbol="~",
        )
        text = as_markdown.convert_soup(soup)
        return Content([Page(in_utf8(_LONG_GAP.sub("\n\n", text).strip()))], in_utf8(title) or None)


def _encoding(content: bytes) -> str | None:
    """What a page that calls itself Latin-1 is read as, by browsers too; None where it says another encoding."""
    from bs4.dammit import EncodingDetector

    rest, mark = EncodingDetector.strip_byte_order_mark(content)
    said = EncodingDetector.find_declared_encoding(rest, is_html=True)
    return "windows-1252" if mark is None and said is not None and said.lower() in _LATIN else None


def _parsed(content: bytes) -> BeautifulSoup:
    """The page, where the next cell, row or item ends one that has no end tag, for else it would be inside it."""
    from bs4 import BeautifulSoup

    class Ending(BeautifulSoup):
        def handle_starttag(self, name: str, *rest: Any, **more: Any) -> Tag | None:
            keep = len(self.tagStack)
            for place in range(keep - 1, 0, -1):
                if name not in _ENDED_BY or self.tagStack[place].name in _HOLDERS:
                    break
                if self.tagStack[place].name in _ENDED_BY[name]:
                    keep = place
            self.endData()
            while len(self.tagStack) > keep:
                self.popTag()
            return super().handle_starttag(name, *rest, **more)

    return Ending(content, "html.parser", from_encoding=_encoding(content))


def _fill_rows(table: Tag) -> None:
    """Have a cell that goes over several rows stand in each of them, so that all others are in their columns."""
    rows = [row for row in table("tr") if row.find_parent("table") is table]
    going_on: dict[int, tuple[Tag, int]] = {}  # column: what stands in the rows that follow, and in how many
    for place, row in enumerate(rows):
        if place and row.parent is not rows[place - 1].parent:
            going_on = {}  # no cell goes beyond a table's head, body or foot
        above, going_on, column = going_on, {}, 0
        cells = row(list(_CELLS), recursive=False)
        while cells or any(start >= column for start in above):
            if column in above:
                repeated, left = above[column][0], above[column][1] - 1
                cell = copy.copy(repeated)
                cells[0].insert_before(cell) if cells else row.append(cell)
            elif cells:
                cell = cells.pop(0)
                left = (_span(cell, "rowspan") or len(rows)) - 1
                repeated = _repeated(cell) if left else cell
            else:
                repeated, left = next(iter(above.values()))[0], 0
                cell = _emptied(repeated)  # of a row too short for what stands further right
                del cell["colspan"]
                row.append(cell)
            if left > 0:
                going_on[column] = (repeated, left)
            column += _span(cell, "colspan") or 1


def _repeated(cell: Tag) -> Tag:
    """What stands below a cell that goes over several rows: the same, unless that is long."""
    return copy.copy(cell) if len(cell.get_text()) <= _REPEATED else _emptied(cell)


def _emptied(cell: Tag) -> Tag:
    found = copy.copy(cell)
    found.clear()
    return found


def _span(cell: Tag, name: str) -> int:
    """How many rows or columns a cell goes over, 1 unless it says so; 0 where it goes over all that are left."""
    said = re.match(r"\s*(\d{1,6})", str(cell.get(name) or ""))
    return int(said[1]) if said else 1
