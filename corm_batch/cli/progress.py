"""What a running job shows: two live lines on a terminal, plain lines elsewhere, JSON lines for machines.

Knows nothing of how a job runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from corm_batch.cli.console import print_json
from corm_batch.report.units import bytes_text, count_text, one_line, percent_text, seconds_text

if TYPE_CHECKING:
    from corm_batch.pipeline.progress import Event, OnEvent, Progress

_SECONDS_BETWEEN_LINES, _SECONDS_OF_SILENCE = 10.0, 60.0
_BAR_WIDTH = 24


@contextmanager
def show_progress(name: str, console: Console, *, as_json: bool) -> Iterator[OnEvent]:
    """What to call with every event of the job `name`; JSON goes to standard output, all else to `console`."""
    if as_json:
        yield _print_event
    elif console.is_terminal:
        with Live(console=console, transient=True, refresh_per_second=4) as live:
            yield _live_lines(name, live)
    else:
        yield _plain_lines(name, console)


def event_json(event: Event) -> dict[str, Any]:
    """An event as flat JSON: what happened, the counts after it, and of a document its id and status."""
    about = {}
    if event.row is not None:
        result = event.row.result
        about = {name: result.get(name) for name in ("doc_id", "status", "error_type", "error_message")}
    return {"event": event.kind, "message": event.message, **event.details, **about, **progress_json(event.progress)}


def progress_json(progress: Progress) -> dict[str, Any]:
    """The counts of a run, with those that are worked out from others."""
    return {
        **asdict(progress),
        "skipped_ok": progress.skipped_ok,
        "left": progress.left,
        "tokens_per_s": _tokens_per_s(progress),
        "kept_ratio": progress.kept_ratio,
        "bytes_saved": progress.bytes_saved,
        "verification": progress.verification,
        "cost": getattr(progress, "cost", None),
        "eta_s": _eta_s(progress),
    }


def _print_event(event: Event) -> None:
    if event.kind != "tick":
        print_json(event_json(event))


class _Lines:
    """Two lines whose clock goes on between events."""

    def __init__(self, name: str, event: Event) -> None:
        self._name = name
        self._progress = event.progress
        self._stage = event.stage
        self._since = time.monotonic()

    def __rich__(self) -> Group:
        progress = replace(self._progress, seconds=self._progress.seconds + time.monotonic() - self._since)
        total = None if progress.total is None else progress.total - progress.left_out - progress.skipped
        bar = ProgressBar(total=total, completed=progress.documents, width=_BAR_WIDTH)
        line = Table.grid(padding=(0, 1))
        line.add_row(self._name, bar, _counts(progress))
        return Group(line, _figures(progress, self._stage))


def _live_lines(name: str, live: Live) -> OnEvent:
    def show(event: Event) -> None:
        if told := _told(name, event):
            live.console.print(told, soft_wrap=True)
        live.update(_Lines(name, event))

    return show


def _plain_lines(name: str, console: Console) -> OnEvent:
    shown = None

    def show(event: Event) -> None:
        nonlocal shown
        progress = event.progress
        if told := _told(name, event):
            console.print(told, soft_wrap=True)
        if event.kind in ("loss", "notice"):
            return
        if event.kind == "stage":
            console.print(f"{name}: {event.message}, {seconds_text(progress.seconds)}", soft_wrap=True)
            return
        silent_s = _SECONDS_BETWEEN_LINES if shown and shown.documents < progress.documents else _SECONDS_OF_SILENCE
        if shown is None or progress.seconds - shown.seconds >= silent_s:
            shown = progress
            console.print(f"{name}: {_counts(progress)}; {_figures(progress, event.stage)}", soft_wrap=True)

    return show


def before_text(progress: Progress) -> str:
    """`10 done before`, and how many of them failed, if any did."""
    failed = f" ({progress.skipped_ok} ok, {progress.skipped_failed} failed)" if progress.skipped_failed else ""
    return f"{progress.skipped} done before{failed}"


def _told(name: str, event: Event) -> str:
    """What is said at once, on a line of its own; empty for nothing."""
    if event.kind == "notice":
        return one_line(event.message, 1000)
    if event.kind == "loss":
        return f"a replica was lost and is replaced: {one_line(event.message, 300)}"
    return f"{name}: {one_line(event.message, 1000)}" if event.kind == "start" and event.message else ""


def _counts(progress: Progress) -> str:
    """`12 of 27 documents, 1 failed, 3 done before, 2 verified (0 differ), ETA 2m10s`."""
    of_total = "" if progress.total is None else f" of {progress.total - progress.left_out - progress.skipped}"
    before = f", {before_text(progress)}" if progress.skipped else ""
    before += f", {progress.left_out} left out" if progress.left_out else ""
    verified = f", {progress.verified} verified ({progress.differing} differ)" if progress.verified else ""
    eta = seconds_text(_eta_s(progress))
    return f"{progress.documents}{of_total} documents, {progress.failed} failed{before}{verified}, ETA {eta}"


def _figures(progress: Progress, stage: str) -> str:
    """What is waited for, or `1.9k tokens/s, kept 31.2%, saved 1.2 GiB of 3.4 GiB, 1m02s`."""
    if not progress.ok:
        return f"{stage or 'no answer yet'}, {seconds_text(progress.seconds)}"
    return (
        f"{count_text(_tokens_per_s(progress))} tokens/s, kept {percent_text(progress.kept_ratio)}, "
        f"saved {bytes_text(max(0, progress.bytes_saved))} of {bytes_text(progress.kv_bytes_full)}, "
        f"{seconds_text(progress.seconds)}"
    )


def _tokens_per_s(progress: Progress) -> float:
    """Tokens of answered documents, read and written, by wall time."""
    return (progress.prompt_tokens + progress.output_tokens) / progress.seconds if progress.seconds else 0.0


def _eta_s(progress: Progress) -> float | None:
    """Seconds left at the pace so far; None before the first answer or without a total."""
    if progress.left is None or not progress.ok:
        return None
    return progress.seconds / progress.documents * progress.left
