"""HTML files as Markdown: headings, lists and tables stay; scripts, styles, pictures and where links lead go."""

from __future__ import annotations

import re

from corm_batch.data.readers.base import Content, Page, Reader, clean

_UNREAD = ("title", "script", "style", "template", "noscript", "svg", "iframe", "object")
_LONG_GAP = re.compile(r"\n{3,}")


class Html(Reader, name="html"):
    """HTML, in the encoding that it says."""

    suffixes = (".html", ".htm", ".xhtml")

    def read(self, content: bytes) -> Content:
        """What a browser shows of it, and its title."""
        from bs4 import BeautifulSoup
        from markdownify import MarkdownConverter

        soup = BeautifulSoup(content, "html.parser")
        title = " ".join(soup.title.get_text().split()) if soup.title else ""
        for element in soup(_UNREAD):
            element.decompose()
        for picture in soup("img"):
            picture.replace_with(str(picture.get("alt") or ""))
        as_markdown = MarkdownConverter(
            heading_style="ATX", strip=["a"], escape_misc=False, escape_underscores=False, escape_asterisks=False
        )
        text = as_markdown.convert_soup(soup)
        return Content([Page(clean(_LONG_GAP.sub("\n\n", text).strip()))], clean(title) or None)
