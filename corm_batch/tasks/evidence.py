"""Evidence: the quotation that each field was taken from, asked for beside it and looked up in the document.

Knows nothing of answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from corm_batch.data.schema import column
from corm_batch.data.sources.documents import page_at
from corm_batch.tasks.json_schema import resolved
from corm_batch.tasks.numbers import find_apart


def quote_of(name: str) -> str:
    """The property, and column, of a field's quotation."""
    return f"{name}_quote"


def with_quotes(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A checked schema of an object that asks for a quotation before each field; null where there is none.

    Raises:
        ValueError: it is one of an array, or has a property where a quotation would stand.
    """
    found = resolved(schema, schema)
    if found.get("type") != "object":
        raise ValueError("evidence: needs a schema of type object")
    names = {name for field in found["properties"] for name in _columns_of(field)}
    if taken := sorted(names & found["properties"].keys()):
        raise ValueError(f"evidence: the schema has a property {taken[0]!r}, where a quotation's column would stand")
    properties: dict[str, Any] = {}
    for name, field in found["properties"].items():
        words = f"the words of the document that {name} is taken from, copied exactly; null if it is not stated"
        properties[quote_of(name)] = {"type": ["string", "null"], "description": words}
        properties[name] = field
    required = [*map(quote_of, found["properties"]), *found.get("required", ())]
    return {**found, "properties": properties, "required": required}


def evidence_columns(names: Iterable[str]) -> list[pa.Field]:
    """The columns of the fields' quotations."""
    found: list[pa.Field] = []
    for field in names:
        quote, start, end, page = _columns_of(field)
        found += [
            column(quote, pa.string(), f"the words of the document that {field} was taken from", detail="yes"),
            column(start, pa.int64(), f"where {quote} begins in the document, in characters from 0", detail="yes"),
            column(end, pa.int64(), "where it ends: behind its last character", detail="yes"),
            column(page, pa.int64(), "the page it begins on, where the text says so: [page 2]", detail="yes"),
        ]
    return found


def evidence(quotes: Mapping[str, str | None], text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of these columns, as the document has the words, and why there are none, by column.

    Args:
        quotes: of each field that is stated.
        text: of the document.
    """
    columns: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for field, quote in quotes.items():
        name, start, stop, page = _columns_of(field)
        if (found := find_quote(quote, text)) is None:
            failed[name] = _why_not(quote)
        else:
            columns |= {name: text[found.start : found.stop], start: found.start, stop: found.stop}
            columns[page] = page_at(text, found.start)
    return columns, failed


def quote_problem(quote: str | None, text: str) -> str:
    """What is wrong with a quotation from a text; "" for nothing."""
    return "" if find_quote(quote, text) is not None else _why_not(quote)


def find_quote(quote: str | None, text: str) -> range | None:
    """Where a quotation first stands in a text, in characters; any blanks and line breaks are like any others.

    As words of their own, if it does so anywhere; never as a part of a number, for 1 is not taken from 12 or 1.5.
    """
    if not (words := (quote or "").split()):
        return None
    said = r"\s+".join(map(re.escape, words))
    alone = rf"(?<!\w)(?<!\d[.,]){said}(?!\w)(?![.,]\d)"
    found = find_apart(alone, text) or find_apart(said, text)
    return range(*found.span()) if found else None


def _why_not(quote: str | None) -> str:
    """Why a quotation was not found."""
    if quote is None or not quote.strip():
        return "no quotation was given"
    return f"{quote[:200]!r} does not stand in the document"


def _columns_of(field: str) -> tuple[str, str, str, str]:
    name = quote_of(field)
    return name, f"{name}_start", f"{name}_end", f"{name}_page"
