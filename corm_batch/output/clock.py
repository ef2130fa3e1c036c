"""Clock: the wall time that an output tells: in names of runs, times of commits, a lease.

Nothing is decided by it alone, for the clocks of two machines may be hours apart.
"""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The time of this machine, UTC."""
    return datetime.now(UTC)
