"""Grammars as the library reads them: what cannot be held is refused by name, and nothing is loaded without one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from corm_batch.errors import GrammarError
from corm_batch.grammar.grammar import Grammar


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        (Grammar.of_regex("a("), "unclosed group"),
        (Grammar.of_regex("a(?=b)"), "look-ahead"),
        (Grammar.of_schema({"not": {"type": "null"}}), "not"),
        (Grammar.of_schema({"type": "string", "format": "colour"}), "colour"),
        (Grammar.of_schema({"type": "string", "pattern": "^a$", "minLength": 2}), "atisfiable"),
    ],
)
def test_a_form_that_cannot_be_held_is_refused_by_name(grammar, named):
    with pytest.raises(GrammarError, match=named):
        grammar.compiled()


def test_only_a_grammar_loads_the_library():
    """Which no other room may import at all: see test_layering.py."""
    code = (
        "import sys, corm_batch.grammar.matcher\n"
        "assert 'llguidance' not in sys.modules\n"
        "from corm_batch.grammar.grammar import Grammar\n"
        "Grammar.of_choices(['a']).compiled()\n"
        "assert 'llguidance' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
