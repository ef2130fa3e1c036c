"""Lease: one driver per output, held by an object that is created conditionally and renewed.

A lease is free again when it was not renewed for `STALE_S`, or when its process is gone from this very machine.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from corm_batch.data.filesystem import create_exclusive, delete, read_whole, write_whole
from corm_batch.errors import CormBatchError, LeaseError, SourceError

RENEW_S = 20.0
STALE_S = 120.0  # a write that begins when the lease was just checked ends before (data/patience.py)


class Lease:
    """A context manager: holds the output from `__enter__` to `__exit__`."""

    def __init__(self, output_uri: str) -> None:
        self._uri = f"{output_uri.rstrip('/')}/_job/lease.json"
        self._token = uuid.uuid4().hex
        self._since = _now()
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Take the lease.

        Raises:
            LeaseError: another driver holds it: who, and since when.
            OutputError: the output cannot be written.
        """
        if not self._create():
            holder = self._read()
            if holder is not None and not _is_over(holder):
                raise LeaseError(f"{self._uri}: this output is held by {_who(holder)}")
            delete(self._uri)
            if not self._create():
                raise LeaseError(f"{self._uri}: this output was just taken by {_who(self._read() or {})}")
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        self._renewer.join()
        try:
            self.check()
            delete(self._uri)
        except CormBatchError:
            if error is None:
                raise

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            LeaseError: another driver took it, because this one did not renew it in time.
        """
        holder = self._read()
        if holder is None or holder.get("token") != self._token:
            raise LeaseError(f"{self._uri}: the lease was lost to {_who(holder or {})}; nothing more is written")

    def _create(self) -> bool:
        """Whether the conditional create was ours; read back, because a slow store may deny a success."""
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
        """The thread: say that we live, as long as the lease is ours. `check` reports what goes wrong here."""
        while not self._stop.wait(RENEW_S):
            try:
                self.check()
                write_whole(self._uri, self._content())
            except LeaseError:
                return
            except CormBatchError:
                continue  # a passing fault of the store: the lease lasts several renewals

    def _content(self) -> bytes:
        holder = {
            "token": self._token,
            "machine": _machine(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "user": _user(),
            "since": self._since,
            "renewed_at": time.time(),
        }
        return json.dumps(holder, indent=1).encode()


def _is_over(holder: dict[str, Any]) -> bool:
    """Whether the holder is gone: not renewed for long, or a dead process of this machine."""
    renewed_at = holder.get("renewed_at")
    if not isinstance(renewed_at, int | float) or time.time() - renewed_at > STALE_S:
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
