"""Tables on a terminal and off it."""

import io

from rich.console import Console

from corm_batch.cli.console import _HarmlessConsole, excerpt, label, number, output_console, print_table, prose

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


def test_styles_of_a_table_are_styles_and_codes_of_a_cell_are_text():
    stream = io.StringIO()
    console = _HarmlessConsole(file=stream, width=60, force_terminal=True, color_system="standard")
    print_table(console, "Title", [excerpt("answer")], [("\x1b[31mred",)])
    assert "\x1b[1manswer" in stream.getvalue()
    assert "\\x1b[1m" not in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()


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
