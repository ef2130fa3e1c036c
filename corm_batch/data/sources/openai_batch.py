"""Requests to a chat model, one a line, as OpenAI's Batch API and vLLM's run-batch take them.

Knows nothing of what a request may ask for.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from corm_batch.data.document import Document
from corm_batch.data.sources.jsonl import JsonlSource
from corm_batch.registry import shown

_EXPECTED = {"method": "POST", "url": "/v1/chat/completions"}
_BODY = "body"


class OpenAIBatchSource(JsonlSource, name="openai_batch"):
    """Lines of an OpenAI batch file: custom_id, method, url and body, a request of the task `chat` each.

    The document's text is what its messages say.
    """

    id_column: str | None = Field("custom_id", min_length=1, description="unique for every request")
    text_column: str = Field(f"{_BODY}.messages", min_length=1, description="the messages of a request")

    def wanted(self, columns: Sequence[str], found: Container[str]) -> list[str]:
        """What a line has; one whose body is no request is that line's fault."""
        return list(dict.fromkeys([*filter(None, [self.id_in(found)]), *_EXPECTED, _BODY, *columns]))

    def document(
        self,
        row: Mapping[str, Any],
        columns: Sequence[str],
        origin: str,
        carried: Sequence[str] = (),
        own: Container[str] | None = None,
    ) -> Document:
        """The document of one line; one without a request to a chat model cannot be answered."""
        made = super().document(row, columns, origin, carried, own)
        if not isinstance(row[_BODY], Mapping):
            problem = f"{origin}: {_BODY}: expected an object with messages, got {shown(row[_BODY])}"
            return replace(made, text=None, problem=problem)
        for name, expected in _EXPECTED.items():
            if row[name] != expected:
                return replace(
                    made, text=None, problem=f"{origin}: {name}: expected {expected}, got {shown(row[name])}"
                )
        return made
