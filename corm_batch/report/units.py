"""Numbers with their units, and texts cut to one line, as terminal and page show them. Knows nothing of jobs."""

from __future__ import annotations

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def one_line(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters, without control characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= width else line[: max(0, width - 3)] + "..."


def whole_text(text: str) -> str:
    """`text` with its line ends, without other control characters."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text).strip()


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


def savings_text(ratio: float | None) -> str:
    """A share of bytes saved as percent; `none` where pages, which are held whole, take more than their entries."""
    return "none" if ratio is not None and ratio < 0 else percent_text(ratio)


def seconds_text(seconds: float | None) -> str:
    """Seconds as `4.2s`, `3m20s` or `2h05m`; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
