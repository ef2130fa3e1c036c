"""TableSource: what every source of rows with columns shares: which hold the id and the text, what makes a row usable.

Knows nothing of a file format.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from pydantic import Field

from corm_batch.data.cells import as_text, is_no_utf8, readable, text_of, usable_id
from corm_batch.data.document import Document
from corm_batch.data.filesystem import reason
from corm_batch.data.kinds import is_shallow, spelled
from corm_batch.data.sources.files import FileSource
from corm_batch.registry import shown

USUAL_ID = "doc_id"
_LEVELS = 200  # JSON, and with it the hash of a row, can do some more


class TableSource(FileSource):
    """Rows of files of one format, one document a row; the columns of a row are the file's and its folders'.

    A folder holds many rows: no text is its, nor an id but of an `id_column` that is named.
    """

    id_column: str | None = Field(
        None,
        min_length=1,
        description="unique for every document: text, whole numbers or UUIDs; default: doc_id where there is one, else "
        "ids are made of a file's name and the row's place in it",
    )
    text_column: str = Field(
        "text",
        min_length=1,
        description="the document: text, a list of texts or a chat's messages; dots lead into objects (doc.body)",
    )
    text_separator: str = Field(
        "\n\n", description="between the entries of a text_column that holds lists, and the texts of a group"
    )

    def id_in(self, found: Container[str]) -> str | None:
        """The column that holds ids where these columns are; None where ids are made."""
        return self.id_column or (USUAL_ID if USUAL_ID in found else None)

    def wanted(self, columns: Sequence[str], found: Container[str]) -> list[str]:
        """Every column to read where these columns are found, each once."""
        return list(dict.fromkeys([*filter(None, [self.id_in(found)]), self.text_column, *columns]))

    def document(
        self,
        row: Mapping[str, Any],
        columns: Sequence[str],
        origin: str,
        carried: Sequence[str] = (),
        own: Container[str] | None = None,
    ) -> Document:
        """The document of one row: column name to value, or to the exception that reading it raised.

        A row without a usable id gets `origin` for one. `own` are the columns of the file where `row` has others too.
        """
        problems = []
        id_column = self.id_in(row if own is None else own)
        if id_column is None:
            doc_id: str | None = self.made_id(origin)
        elif (doc_id := usable_id(as_text(row[id_column]))) is None:
            problems.append(f"column {id_column!r} holds no usable id but {shown(row[id_column])}")
        text = None
        try:
            text = text_of(row[self.text_column], self.text_separator)
        except ValueError as error:
            problems.append(f"column {self.text_column!r} {error}")
        extra = {name: as_text(row[name]) for name in columns}
        kept = {name: carried_value(row[name]) for name in carried}
        for name, value in extra.items():
            if not is_shallow(value, _LEVELS):
                problems.append(f"column {name!r} nests deeper than {_LEVELS} levels, or holds itself")
                extra[name] = None
            elif isinstance(value, UnicodeError) or is_no_utf8(value):
                problems.append(f"column {name!r} holds invalid UTF-8")
                extra[name] = None
        for name, value in extra.items():
            if isinstance(value, Exception):
                problems.append(f"column {name!r} cannot be read ({reason(value)})")
                extra[name] = None
        return Document(
            doc_id=doc_id or origin,
            text=None if problems else text,
            columns=extra,
            problem=f"{origin}: {'; '.join(dict.fromkeys(problems))}" if problems else None,
            origin=origin,
            carried=kept,
        )


def unusable(origin: str, why: str) -> Document:
    """What stands for a row that has no columns to make a document of."""
    return Document(doc_id=origin, text=None, problem=f"{origin}: {why}", origin=origin)


def carried_value(value: Any) -> Any:
    """What is carried over of a value: of its text all that is UTF-8, or why there is none; no answer depends on it."""
    if isinstance(value, Exception):
        return f"<cannot be read: {reason(value)}>"
    return readable(value) if is_shallow(value, _LEVELS) else spelled(value)
