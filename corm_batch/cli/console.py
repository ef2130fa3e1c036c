"""What every verb prints with: consoles and tables. Knows nothing of jobs.

On a terminal tables have ruled heads and fit its width; anywhere else they are plain ASCII, as wide as they need to be.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from corm_batch.harmless import harmless

_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")  # JSON escapes those below 32 only
PLAIN_WIDTH = 1000  # columns when the output is no terminal: nothing is wrapped or cut to fit


def output_console() -> Console:
    """Standard output."""
    return _console(stderr=False)


def error_console() -> Console:
    """Standard error."""
    return _console(stderr=True)


class _HarmlessConsole(Console):
    """Prints no text that a terminal obeys, such as the name of a file, and no credentials."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As every console, texts made harmless; what draws itself is made of harmless texts here."""
        super().print(*(harmless(item) if isinstance(item, str) else item for item in objects), **options)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # an answer may hold what a terminal's encoding lacks
    console = _HarmlessConsole(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def print_json(value: Any) -> None:
    """One JSON value on one line of standard output."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    sys.stdout.write(_CONTROL.sub(lambda char: f"\\u{ord(char[0]):04x}", text) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """A document, as it is, on standard output."""
    sys.stdout.write(text)
    sys.stdout.flush()


def number(header: str) -> Column:
    """A column of numbers: to the right, never cut."""
    return Column(header, justify="right", no_wrap=True)


def label(header: str) -> Column:
    """A column of short words, never cut."""
    return Column(header, no_wrap=True)


def prose(header: str) -> Column:
    """A column of text that goes on in further lines when the terminal is narrow."""
    return Column(header, overflow="fold")


def excerpt(header: str) -> Column:
    """A column of text that is cut at the end when the terminal is narrow."""
    return Column(header, overflow="ellipsis")


def print_table(
    console: Console, title: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, heads: bool = True
) -> None:
    """Draw a table under its title."""
    lines = box.SIMPLE_HEAD if console.is_terminal else box.ASCII
    table = Table(
        *columns,
        box=lines if heads else None,
        show_header=heads,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0) if heads and console.is_terminal else (0, 1),
    )
    for row in rows:
        cells = zip(columns, row, strict=True)
        # only the columns' cells may say no_wrap: a column that does is the last one rich makes narrower
        table.add_row(*(Text(harmless(cell), no_wrap=column.overflow != "fold") for column, cell in cells))
    console.print(title, style="bold", soft_wrap=not console.is_terminal)
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        console.file.write(line.rstrip() + "\n")  # as drawn: printed again, its own styles would be made harmless
    console.print()
