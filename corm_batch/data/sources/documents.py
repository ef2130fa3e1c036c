"""Files that are a document each: text, Markdown, HTML, PDF and DOCX. Knows nothing of what is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from corm_batch.data.columns import folder_columns
from corm_batch.data.document import Document
from corm_batch.data.filesystem import open_file, reason
from corm_batch.data.readers.base import Content, Page, Reader
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.files import FileSource
from corm_batch.data.uri import name_of
from corm_batch.errors import ColumnsError, FileError, SpecError

_MARK = re.compile(r"^\[page (\d+)\b", re.MULTILINE)  # what `_numbered` writes
_COLUMNS = {"title": pa.string(), "page": pa.int64(), "pages": pa.int64()}


class DocumentsSource(FileSource, name="documents"):
    """Text, Markdown, HTML, PDF and DOCX files, one document a file, or a page; the id is the file's name.

    Columns: title, pages (how many; null where the file has none that are numbered), page (of `pages: apart`), and
    those of its folders.
    """

    suffixes = tuple(suffix for reader in Reader.registered().values() for suffix in reader.suffixes)

    pages: Literal["together", "apart"] = Field(
        "together", description="together: [page 2] and so on stand in a document's text; apart: each page is one"
    )

    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """The file, unread.

        Raises:
            SpecError: what reads it is not installed.
        """
        if missing := self._reader(uri).missing():
            raise SpecError(f"source: {uri}: needs {', '.join(missing)}: pip install 'corm-batch[documents]'")
        kinds = {**dict.fromkeys(folder_columns(uri), pa.string()), **_COLUMNS}
        if unknown := [name for name in columns if name not in kinds]:
            raise ColumnsError(uri, f"there is no column {unknown[0]!r}; there are: {', '.join(kinds)}")
        found = {name: kinds[name] for name in columns}
        return [Split(uri, 0, 1 if self.pages == "together" else -1, kinds=found)]

    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The file's document, or those of its pages; one with a problem where it cannot be read."""
        uri, file_id = split.uri, self.made_id(f"{split.uri}#").removesuffix("#")
        with open_file(uri) as file:
            content = file.read()
        try:
            found = self._reader(uri).read(content)
        except Exception as error:  # what readers of damaged files raise has no bounds
            found, problem = Content([]), f"cannot be read: {reason(error)}"
        else:
            problem = "" if found.pages else "it has no pages"
        values = {**folder_columns(uri), "title": found.title, "pages": len(found.pages) if found.is_paged else None}

        def document(doc_id: str, text: str, problem: str, number: int | None) -> Document:
            row: dict[str, Any] = {**values, "page": number}
            place = f"{uri}#{number - 1 if number else 0}"
            return Document(
                doc_id=doc_id,
                text=None if problem else text,
                columns={name: row[name] for name in columns},
                problem=f"{uri}: {problem}" if problem else None,
                origin=place,
                carried={name: row[name] for name in carried},
            )

        if self.pages == "together" or not found.is_paged or problem:
            yield document(file_id, _together(found), problem or _problem(found.pages), None)
            return
        for number, page in enumerate(found.pages, 1):
            problem = f"page {number}: {_problem([page])}" if not page.text.strip() else ""
            yield document(f"{file_id}#{number}", page.text, problem, number)

    def _reader(self, uri: str) -> Reader:
        for reader in Reader.registered().values():
            if name_of(uri).endswith(reader.suffixes):
                return reader()
        raise FileError(uri, f"nothing reads a file of that name; names end with {', '.join(self.suffixes)}")


def _problem(pages: Sequence[Page]) -> str:
    """Why there is nothing to ask about on these pages; empty where there is."""
    if any(page.text.strip() for page in pages):
        return ""
    if unread := {number: page.problem for number, page in enumerate(pages, 1) if page.problem}:
        if len(pages) == 1:
            return f"cannot be read: {unread[1]}"
        number, why = next(iter(unread.items()))
        return f"no text on any of its {len(pages)} pages, and {len(unread)} cannot be read: page {number}: {why}"
    pictures = sum(page.has_picture for page in pages)
    where = "" if len(pages) == 1 else f" on any of its {len(pages)} pages"
    return f"no text{where}, but pictures: it has been scanned" if pictures else f"is empty: no text{where}"


def page_at(text: str, place: int) -> int | None:
    """The page on which a character of a text stands, by the marks above it; None in a text without them."""
    numbers = [mark[1] for mark in _MARK.finditer(text, 0, place)]
    return int(numbers[-1]) if numbers else None


def _together(content: Content) -> str:
    """The text of all pages, each below its number."""
    if not content.is_paged:
        return "\n\n".join(page.text for page in content.pages)
    return "\n\n".join(_numbered(number, page) for number, page in enumerate(content.pages, 1))


def _numbered(number: int, page: Page) -> str:
    if page.text.strip():
        return f"[page {number}]\n{page.text}"
    if page.problem:
        return f"[page {number}: cannot be read: {page.problem}]"
    return f"[page {number}: no text{', but a picture' if page.has_picture else ''}]"
