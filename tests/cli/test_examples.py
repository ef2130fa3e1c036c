"""Every verb's --help ends with examples, which the command line takes."""

import re
import shlex

import pytest
from typer.main import get_command

from corm_batch.cli import app
from corm_batch.cli.examples import EXAMPLES

LINES = [line for lines in EXAMPLES.values() for line in lines]


def verbs(command, words=()):
    """Verbs, and groups of them, by name; a group comes after what is in it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*words, name))
    yield " ".join(words), command


def test_every_verb_has_examples_in_its_help(corm_batch):
    assert set(EXAMPLES) == {verb for verb, _ in verbs(get_command(app))}
    for verb, lines in EXAMPLES.items():
        help_text = corm_batch(*verb.split(), "--help").out
        assert max(map(len, help_text.splitlines())) <= 80
        shown = [line.strip() for line in help_text.splitlines()]
        assert lines
        for line in lines:
            assert line.startswith(verb)
            for part in f"corm-batch {line}".splitlines():
                assert part.strip() in shown


@pytest.mark.parametrize("line", LINES)
def test_examples_are_taken(line):
    words = shlex.split(re.split(" [<>] ", line.replace("\\\n", ""))[0])
    verb, command = next(one for one in verbs(get_command(app)) if line.startswith(one[0]))
    assert command.make_context(verb, words[len(verb.split()) :]).params
