"""What every verb prints with: consoles, tables, numbers with their units. Knows nothing of jobs.

On a terminal tables have ruled heads and fit its width; anywhere else they are plain ASCII, as wide as they need to be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
PLAIN_WIDTH = 1000  # columns when the output is no terminal: nothing is wrapped or cut to fit


def output_console() -> Console:
    """Standard output."""
    return _console(stderr=False)


def error_console() -> Console:
    """Standard error."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # an answer may hold what a terminal's encoding lacks
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def print_json(value: Any) -> None:
    """One JSON value on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
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
        table.add_row(*(Text(cell, no_wrap=column.overflow != "fold") for column, cell in cells))
    console.print(title, style="bold", soft_wrap=True)
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        console.out(line.rstrip(), highlight=False)
    console.print()


def one_line(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters, without control characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= width else line[: max(0, width - 3)] + "..."


def bytes_text(num_bytes: int) -> str:
    """Bytes in the largest binary unit that leaves one or more: `3.2 MiB`."""
    power = _power(num_bytes)
    return f"{num_bytes / 1024**power:.{1 if power else 0}f} {_BYTE_UNITS[power]}"


def _power(num_bytes: int) -> int:
    """Which of `_BYTE_UNITS` suits."""
    return min(max(num_bytes.bit_length() - 1, 0) // 10, len(_BYTE_UNITS) - 1)


def bytes_change_text(before: int, after: int) -> str:
    """Two numbers of bytes in the unit of the first: `71.8 -> 23.8 MiB`."""
    power = _power(before)
    digits = 1 if power else 0
    return f"{before / 1024**power:.{digits}f} -> {after / 1024**power:.{digits}f} {_BYTE_UNITS[power]}"


def count_text(count: float) -> str:
    """A count in thousands, millions or billions from 10,000 on: `512`, `48.2k`, `3.1M`, `6.5B`."""
    if count < 10_000:
        return f"{count:.0f}"
    size, unit = next((size, unit) for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")) if count >= size)
    return f"{count / size:.1f}{unit}"


def counted(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def percent_text(share: float | None) -> str:
    """A share of one as percent with one decimal; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}%"


def seconds_text(seconds: float | None) -> str:
    """Seconds as `4.2s`, `3m20s` or `2h05m`; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
