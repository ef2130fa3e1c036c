"""The files of a source that could not be read, one line each, and those that held nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from corm_batch.report.units import counted, one_line

_NAMED_AT_MOST, _MAX_LINE = 100, 2000


def print_broken_files(console: Console, failed: Sequence[tuple[str, str]], empty: Sequence[str]) -> None:
    """Say what is wrong with each file of `failed` (URI and why) and which are `empty`; nothing without any."""
    if failed:
        console.print(
            f"{counted(len(failed), 'file')} cannot be read, or not to the end; what can be is", soft_wrap=True
        )
        _print_lines(console, [f"{uri}: {error}" for uri, error in failed])
    if empty:
        console.print(f"{counted(len(empty), 'file')} without documents, passed over", soft_wrap=True)
        _print_lines(console, empty)


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    """Up to `_NAMED_AT_MOST` of them."""
    for line in lines[:_NAMED_AT_MOST]:
        console.print(f"  {one_line(line, _MAX_LINE)}", soft_wrap=True)
    if len(lines) > _NAMED_AT_MOST:
        console.print(f"  ... and {len(lines) - _NAMED_AT_MOST} more, which --json shows", soft_wrap=True)
