"""Lease: one driver per output, held by an object that is created conditionally and renewed.

A lease is free when its process is gone from this very machine. Else only watching tells: who has seen it unchanged for
`STALE_S` by its own clock takes it, and gives up as soon as its holder shows that it lives. What the lease says of time
is for people, as two machines' clocks may differ by more than that.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from corm_batch.data.filesystem import create_exclusive, delete, read_whole, write_whole
from corm_batch.errors import LeaseError, OutputError, SourceError
from corm_batch.output import clock

RENEW_S = 20.0
STALE_S = 120.0  # a write that begins when the lease was just checked ends before (data/patience.py)
_LOOK_S, _LEAVE_S = 1.0, 5.0
_log = logging.getLogger(__name__)


class Lease:
    """A context manager: holds the output from `__enter__` to `__exit__`.

    Attributes:
        lost: that another driver took it, and which, once a renewal has found that out; else None.
    """

    def __init__(self, output_uri: str, may_wait: Callable[[], bool] = lambda: False) -> None:
        """The lease of an output, not taken yet.

        Args:
            output_uri: the folder.
            may_wait: asked every second while the output is held by a driver that may be dead: whether to wait on.
        """
        self.lost: LeaseError | None = None
        self._uri = f"{output_uri.rstrip('/')}/_job/lease.json"
        self._may_wait = may_wait
        self._token = uuid.uuid4().hex
        self._since = ""
        self._renewals = 0
        self._away = False
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Take the lease; if waiting is allowed, as soon as the driver that holds it has proved to be dead.

        Raises:
            LeaseError: another driver holds it: who, since when, and when it is free if that one is dead.
            OutputError: the output cannot be written.
        """
        watched: dict[str, Any] | None = None
        since, told = 0.0, False
        while not self._create():
            holder = self._read()
            if holder is None:
                continue  # it was given back just now
            if watched is None:
                watched, since = holder, time.monotonic()
            elif holder != watched:
                raise LeaseError(f"{self._uri}: {_held(holder)}. It lives: wait for its end, or stop it")
            left_s = STALE_S - (time.monotonic() - since)
            if _is_gone(holder) or left_s < 0:
                delete(self._uri)
                watched = None
                continue
            free = f"If that process is dead, the output is free in {left_s:.0f} s"
            if not self._may_wait():
                raise LeaseError(f"{self._uri}: {_held(holder)}. {free}")
            if not told:
                told = True
                _log.warning("%s: %s. Waiting for a sign of life. %s", self._uri, _held(holder), free)
            time.sleep(_LOOK_S)
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lease back, if it is still ours; after an error while the store is away, leave it to be taken."""
        self._stop.set()
        self._renewer.join(None if error is None else _LEAVE_S)
        if error is not None and (self._away or self._renewer.is_alive()):
            return  # each step here would be tried for as long as what has just failed
        try:
            self.check()
            delete(self._uri)
        except (OutputError, SourceError):
            if error is None:
                raise

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            LeaseError: another driver took it, because this one did not renew it in time.
        """
        if self.lost is not None:
            raise self.lost
        holder = self._read()
        if holder is None or holder.get("token") != self._token:
            raise LeaseError(f"{self._uri}: the lease was lost to {_who(holder or {})}; nothing more is written")

    def _create(self) -> bool:
        """Whether the conditional create was ours; read back, because a slow store may deny a success."""
        self._since = _time()
        if create_exclusive(self._uri, self._content()):
            return True
        holder = self._read()
        return holder is not None and holder.get("token") == self._token

    def _read(self) -> dict[str, Any] | None:
        """What the lease says; None when there is none, {} when it is unreadable JSON."""
        try:
            content = json.loads(read_whole(self._uri))
        except SourceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _renew(self) -> None:
        """The thread: say that we live, as long as the lease is ours."""
        while not self._stop.wait(RENEW_S):
            try:
                self.check()
                self._renewals += 1
                write_whole(self._uri, self._content())
                self._away = False
            except LeaseError as error:
                self.lost = error
                return
            except (OutputError, SourceError):
                self._away = True  # a fault that may pass: the lease lasts several renewals

    def _content(self) -> bytes:
        holder = {
            "token": self._token,
            "machine": _machine(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "user": _user(),
            "since": self._since,
            "renewed_at": _time(),
            "renewals": self._renewals,  # what is renewed has changed, whatever the clock says
        }
        return json.dumps(holder, indent=1).encode()


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder is a dead process of this machine, or what is there was never a lease."""
    if not isinstance(holder.get("token"), str):
        return True
    pid = holder.get("pid")
    return holder.get("machine") == _machine() and isinstance(pid, int) and not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")


def _machine() -> str:
    """This boot of this machine, and this namespace of process ids: where a pid means the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in the container's passwd
        return str(os.getuid())


def _who(holder: dict[str, Any]) -> str:
    host, pid, user = (holder.get(key, "unknown") for key in ("host", "pid", "user"))
    return f"process {pid} of {user} on {host} since {holder.get('since', 'unknown')}"


def _held(holder: dict[str, Any]) -> str:
    return f"this output is held by {_who(holder)}"


def _time() -> str:
    return clock.now().isoformat(timespec="seconds")
