"""Grammar: the form an answer is to have, as plain data. Knows nothing of tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corm_batch.errors import GrammarError

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One line, as `json.dumps` writes it and as prompts show schemas: blanks in any number would never have to end."""


@dataclass(frozen=True)
class Grammar:
    """A form that a whole answer has.

    Attributes:
        kind: what `text` is: a JSON Schema, a regular expression, or a JSON list of texts.
        text: this.
        after: a mark; what the model writes up to its end is free, as the reasoning of a model that reasons first. ""
            where the answer begins at once.
    """

    kind: Literal["json_schema", "regex", "choices"]
    text: str
    after: str = ""

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any]) -> Grammar:
        """JSON that a JSON Schema allows, its properties in the schema's order."""
        return cls("json_schema", json.dumps(schema, ensure_ascii=False))

    @classmethod
    def of_regex(cls, pattern: str) -> Grammar:
        """A text that a regular expression matches from its beginning to its end."""
        return cls("regex", pattern)

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> Grammar:
        """One of these texts."""
        return cls("choices", json.dumps(list(choices), ensure_ascii=False))

    def compiled(self) -> str:
        """As llguidance reads it.

        Raises:
            GrammarError: it cannot hold an answer to this; why.
        """
        from llguidance import LLMatcher  # here alone, so that jobs without a grammar do without it

        if self.kind == "json_schema":
            found = LLMatcher.grammar_from_json_schema(self.text, overrides=_COMPACT)  # type: ignore[arg-type]
        else:
            texts = [self.text] if self.kind == "regex" else map(re.escape, json.loads(self.text))
            found = LLMatcher.grammar_from_regex("|".join(texts))
        if problem := LLMatcher.validate_grammar(found):
            raise GrammarError(f"no grammar can be made of this {self.kind}: {' '.join(problem.split())[:300]}")
        return found
