import pytest

from corm_batch.report.units import (
    bytes_change_text,
    bytes_text,
    count_text,
    counted,
    one_line,
    percent_text,
    savings_text,
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


@pytest.mark.parametrize(("ratio", "text"), [(0.622, "62.2%"), (0, "0.0%"), (-1.729, "none"), (None, "-")])
def test_savings_that_are_none(ratio, text):
    assert savings_text(ratio) == text


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
