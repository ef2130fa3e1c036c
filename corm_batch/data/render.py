"""Templates over a row's columns, rendered in a process of their own: a template may ask for any time and memory.

The process imports Jinja and nothing of the engine; it is given a limit of memory, and ended when it takes too long.
Knows nothing of what templates are for.
"""

from __future__ import annotations

import atexit
import os
import pickle
import resource
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from corm_batch.data.template import render
from corm_batch.data.unknown_row import problem_with_every_row
from corm_batch.errors import DocumentError

LIMIT_S = 10.0  # of one rendering; a large document takes milliseconds
_START_S = 120.0  # until the process has imported what it needs, on a machine that is busy
_MEMORY = 1 << 30  # bytes of the process beyond what is rendered
_TEXT = 1 << 24  # characters of a prompt beyond what its row holds
_HEAD = struct.Struct("!Q")


class Renderer:
    """A process that renders; started with the first template, and again after one that had to be ended."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, template: str, columns: Mapping[str, Any], *, called: str = "the template") -> str:
        """The template over `columns`; blocks until it is rendered. It is `called` so in messages.

        Raises:
            DocumentError: it does not suit them, or takes more time or memory than it may.
        """
        ok, text = self.rendered(template, columns)
        if not ok:
            raise DocumentError(f"{called} cannot be rendered: {text}")
        return text

    def rendered(self, template: str, columns: Mapping[str, Any]) -> tuple[bool, str]:
        """Whether the template can be rendered over `columns`, and the text or why not."""
        return self._answer((template, dict(columns)))

    def problem_with_every_row(self, template: str) -> str | None:
        """Why the template can be rendered over no row at all; None when it may be over some."""
        ok, text = self._answer((template, None))
        return None if ok else text

    def _answer(self, request: tuple[str, dict[str, Any] | None]) -> tuple[bool, str]:
        """Whether it could be done, and the text or why not; the process is ended when that takes too much."""
        with self._lock:
            try:
                return self._ask(pickle.dumps(request))
            except (OSError, EOFError, pickle.UnpicklingError):
                self.close()
                return False, f"it takes more than {self._limit_s:g} s or {_MEMORY >> 20} MiB"

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, request: bytes) -> tuple[bool, str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-m", "corm_batch.data.render"]
            path = os.pathsep.join(filter(None, sys.path))  # Ray may have put the package there
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # an interrupt is its owner's to handle
            )
            atexit.register(self.close)
            assert self._process.stdout is not None
            _message_within(_START_S, self._process.stdout)  # its start is no template's time
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(_HEAD.pack(len(request)) + request)
        stdin.flush()
        answer: tuple[bool, str] = pickle.loads(_message_within(self._limit_s, stdout))
        return answer


def _message_within(seconds: float, file: IO[bytes]) -> bytes:
    """The next message; EOFError when it does not begin in time."""
    ready, _, _ = select.select([file], [], [], seconds)
    if not ready:
        raise EOFError("no answer in time")
    return _message(file)


def _message(file: IO[bytes]) -> bytes:
    """The next message; EOFError when there is none."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError("the process has ended")
    return file.read(_HEAD.unpack(head)[0])


def _serve() -> None:
    """The process: an empty message when it is there, then one request after another until its owner is gone."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(_HEAD.pack(0))
    answers.flush()
    while True:
        try:
            request = _message(requests)
        except EOFError:
            return
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY + 8 * len(request), resource.RLIM_INFINITY))
        template, columns = pickle.loads(request)
        if columns is None:
            problem = problem_with_every_row(template, _TEXT)
            answer = pickle.dumps((problem is None, problem or ""))
        else:
            answer = pickle.dumps(render(template, columns, _TEXT + len(request)))
        answers.write(_HEAD.pack(len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    _serve()
