"""How a verb ends: its exit code and what that says, of a run also for whoever waits for one, here or on a cluster."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import Literal

End = Literal["ok", "failed documents", "stopped", "failed", "cancelled"]


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0  # every document is answered, or the verb has done what it was told
    FAILED = 1  # the job itself failed, or something cannot be read or written
    WRONG_SPEC = 2  # the spec, its model or an argument is wrong, as an output where nothing is committed
    FAILED_DOCUMENTS = 3  # or files that cannot be read to their end
    STOPPED = 4  # by verify.stop_above, after what was finished is committed
    NOTHING_CHOSEN = 5  # of `calibrate`: no policy loses as little as it may
    INTERRUPTED = 130  # after what was finished is committed

    @property
    def end(self) -> End:
        """What it says of the run."""
        return _ENDS.get(self, "failed")

    @classmethod
    def of(cls, end: End) -> ExitCode:
        """The code of a run of which its end is known, and nothing of why."""
        return next(code for code in cls if code.end == end)


_ENDS: dict[int, End] = {
    ExitCode.OK: "ok",
    ExitCode.FAILED_DOCUMENTS: "failed documents",
    ExitCode.STOPPED: "stopped",
    ExitCode.INTERRUPTED: "cancelled",
    -signal.SIGINT: "cancelled",
    -signal.SIGTERM: "cancelled",
}

IN_VAIN = (ExitCode.WRONG_SPEC, ExitCode.FAILED_DOCUMENTS, ExitCode.STOPPED)
"""Ends that the same run would come to again."""


def end_of(code: int) -> End:
    """What the exit code of a process says of its run; negative: the number of the signal that ended it."""
    return _ENDS.get(code, "failed")
