"""Numbers with units, and tables on a terminal and off it."""

import io

import pytest
from rich.console import Console

from corm_batch.cli.console import (
    bytes_change_text,
    bytes_text,
    count_text,
    counted,
    excerpt,
    label,
    number,
    one_line,
    output_console,
    percent_text,
    print_table,
    prose,
    seconds_text,
)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**20 + 2**19, "5.5 MiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**42, "4.0 TiB"),
        (2**63, "8192.0 PiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes(num_bytes, text):
    assert bytes_text(num_bytes) == text


def test_two_byte_counts_share_a_unit():
    assert bytes_change_text(3 * 2**20, 2**18) == "3.0 -> 0.2 MiB"
    assert bytes_change_text(900, 100) == "900 -> 100 B"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9999, "9999"), (10_000, "10.0k"), (48_210, "48.2k"), (3_100_000, "3.1M"), (6_535_000_000, "6.5B")],
)
def test_counts(count, text):
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (4.24, "4.2s"), (59.99, "1m00s"), (200, "3m20s"), (3599.7, "1h00m"), (7500, "2h05m")],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


def test_shares_and_nouns():
    assert (percent_text(0.3333), percent_text(-0.05), percent_text(None)) == ("33.3%", "-5.0%", "-")
    assert (counted(1, "file"), counted(0, "file"), counted(2, "file")) == ("1 file", "0 files", "2 files")


def test_one_line_takes_nothing_a_terminal_would_obey():
    assert one_line("a\x1b[31mb\r\n\tc\x07", 80) == "a [31mb c"
    assert one_line("abcdefghij", 8) == "abcde..."


ROWS = [("book:a-very-long-name-of-a-document-in-an-archive", "123456", "one answer that goes on for quite a while")]


def drawn(width, columns, *, terminal):
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)
    print_table(console, "Title", columns, ROWS)
    return stream.getvalue().splitlines()


def test_narrow_terminal_cuts_excerpts_and_keeps_numbers():
    lines = drawn(40, [excerpt("document"), number("tokens"), excerpt("answer")], terminal=True)
    assert max(map(len, lines)) <= 40
    row = lines[3]
    assert "123456" in row
    assert "…" in row
    assert len(lines) == 5, "one line a row"


def test_narrow_terminal_wraps_prose():
    lines = drawn(75, [label("document"), number("tokens"), prose("answer")], terminal=True)
    assert max(map(len, lines)) <= 75
    assert "…" not in "".join(lines)
    assert ROWS[0][0] in lines[3]
    assert len(lines) > 5


def test_markup_in_a_cell_is_text(capsys):
    print_table(output_console(), "[bold]Title", [excerpt("answer")], [("[red]stop[/red] :smile:",)])
    printed = capsys.readouterr().out
    assert "[red]stop[/red] :smile:" in printed
    assert "[bold]Title" in printed


def test_off_a_terminal_everything_is_ascii_and_whole(capsys):
    print_table(output_console(), "Title", [excerpt("document"), number("tokens"), prose("answer")], ROWS)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert all(cell in printed.splitlines()[3] for cell in ROWS[0])
