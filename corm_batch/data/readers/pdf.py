"""PDF files, page by page, with what has been filled in. A page that cannot be read costs no other."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from corm_batch.data.readers.base import Content, Page, Reader
from corm_batch.harmless import in_utf8

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

_HIDDEN = 2  # bits of an annotation's flags, and of a field's
_PASSWORD, _PUSH_BUTTON = 1 << 13, 1 << 16
_DRAWS = re.compile(rb"\b(T[jJ]|Do)\b")  # text, pictures or forms
_DEEPEST = 32  # fields within fields; damaged files have rings of them


class Pdf(Reader, name="pdf"):
    """PDF with text; of scanned pages nothing can be read."""

    suffixes = (".pdf",)
    needs = ("pypdf",)

    def read(self, content: bytes) -> Content:
        """The text of each page, in the order of the file, and below it what its form has been filled in with."""
        from pypdf import PdfReader

        logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its lines name no file; what matters is raised
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("it is encrypted, and needs a password")
        pages = [_page(reader, number) for number in range(len(reader.pages))]
        title = None
        with suppress(Exception):  # of damaged metadata; what the pages say stands
            title = reader.metadata.title if reader.metadata else None
        return Content(pages, in_utf8(str(title)).strip() or None if title else None, is_paged=True)


def _page(reader: PdfReader, number: int) -> Page:
    """A page, or why it cannot be read."""
    from pypdf.generic import NameObject

    try:
        page = reader.pages[number]
        resources = _inherited(page, "/Resources")
        if isinstance(resources, dict):
            page[NameObject("/Resources")] = resources  # pypdf does not look above a page that has null there
        elif (contents := page.get_contents()) is not None and _DRAWS.search(contents.get_data()):
            raise ValueError("it names no fonts and pictures, which it needs")
        else:
            page.pop("/Resources", None)
        text = in_utf8("\n".join([page.extract_text().strip(), *_form(page)])).strip()
    except Exception as error:  # what reading damaged pages raises has no bounds
        return Page("", problem=_reason(error))
    has_picture = False
    with suppress(Exception):
        has_picture = bool(_at(resources, "/XObject"))
    return Page(text, has_picture)


def _form(page: PageObject) -> list[str]:
    """What has been filled in on a page, each once, or why that cannot be read."""
    try:
        return list(dict.fromkeys(_filled_in(page)))
    except Exception as error:  # the page's own text has been read
        return [f"[what has been filled in cannot be read: {_reason(error)}]"]


def _reason(error: Exception) -> str:
    return in_utf8(" ".join(str(error).split()) or type(error).__name__)


def _at(found: Any, name: str) -> Any:
    """What a dictionary of a PDF has under a name; None where it is null, or no dictionary."""
    from pypdf.generic import NullObject

    value = found.get(name) if isinstance(found, dict) else None
    value = value.get_object() if value is not None else None
    return None if isinstance(value, NullObject) else value


def _inherited(found: Any, name: str) -> Any:
    """What a dictionary has under a name, or the nearest one above it that has something there."""
    seen: set[int] = set()
    while isinstance(found, dict) and id(found) not in seen:
        seen.add(id(found))
        if (value := _at(found, name)) is not None:
            return value
        found = _at(found, "/Parent")
    return None


def _filled_in(page: PageObject) -> Iterator[str]:
    """The fields of a page's form that hold something, with their names, and text that was written onto it."""
    for annotation in _at(page, "/Annots") or ():
        found = annotation.get_object()
        kind = _at(found, "/Subtype")
        if (_at(found, "/F") or 0) & _HIDDEN:
            continue
        if kind == "/FreeText" and (text := _as_text(_at(found, "/Contents"))):
            yield text
        elif kind == "/Widget" and (value := _value_of(found)):
            yield ": ".join(filter(None, [_name_of(found), value]))


def _value_of(field: Any) -> str:
    """What a field holds that can be read on its page; empty where it holds nothing."""
    kind, flags = _inherited(field, "/FT"), _inherited(field, "/Ff") or 0
    if kind == "/Sig" or (kind == "/Tx" and flags & _PASSWORD) or (kind == "/Btn" and flags & _PUSH_BUTTON):
        return ""
    value = _as_text(_inherited(field, "/V"))
    return "" if kind == "/Btn" and value == "Off" else value


def _name_of(field: Any) -> str:
    """A field's name below those of the fields above it."""
    names: list[str] = []
    while isinstance(field, dict) and len(names) < _DEEPEST:
        names.append(_as_text(_at(field, "/T")))
        field = _at(field, "/Parent")
    return ".".join(filter(None, reversed(names)))


def _as_text(value: Any) -> str:
    """A value as text: a text, a name, a stream of text or several of them."""
    from pypdf.generic import NameObject, StreamObject, create_string_object

    if isinstance(value, list):
        return ", ".join(filter(None, (_as_text(one.get_object()) for one in value)))
    if isinstance(value, StreamObject):
        value = create_string_object(value.get_data())
    return ("" if value is None else str(value)).removeprefix("/" if isinstance(value, NameObject) else "").strip()
