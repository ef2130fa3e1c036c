"""The other ranks of a tensor-parallel engine: `python -m corm_batch.engine.follower`, as the leader starts it.

It makes the calls that the leader tells it of, says why when it fails, and ends with the leader.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from corm_batch.engine.engine import EngineCore
from corm_batch.engine.ranks import JoinedRanks

T = TypeVar("T")


class Follower(JoinedRanks):
    """A rank that is told what to do.

    Args:
        inbox: what the leader says.
        rank, size, port: as `JoinedRanks`.
    """

    def __init__(self, inbox: queue.SimpleQueue[Any], rank: int, size: int, port: int) -> None:
        self._inbox = inbox
        super().__init__(rank, size, port)

    def lead(self, decide: Callable[[], T]) -> T:
        """What the leader decided."""
        return self._inbox.get()  # type: ignore[no-any-return]

    def follow(self) -> None:
        """Make one call after the other, for ever."""
        engine: Any = None
        while True:
            name, args = self._inbox.get()
            if name == "load":
                load, num_threads, policy, config = args
                engine = None  # its pages make room
                torch.set_num_threads(num_threads)
                engine = EngineCore(load(device=self.device, ranks=self), policy, config)
            elif callable(call := getattr(engine, name)):
                call(*args)


def main(descriptor: int, rank: int, size: int, port: int) -> None:
    """Follow the leader at the other end of a socket.

    Args:
        descriptor: of the socket.
        rank, size, port: as `JoinedRanks`.
    """
    link, inbox = Connection(descriptor), queue.SimpleQueue[Any]()
    threading.Thread(target=_receive, args=(link, inbox), daemon=True).start()
    link.send("ready")
    try:
        Follower(inbox, rank, size, port).follow()
    except Exception as error:
        link.send(f"{type(error).__name__}: {error}")
        os._exit(1)  # at once: the leader may be waiting for this rank in the middle of a step


def _receive(link: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    """Take in what the leader says; this process ends with it, whatever it is doing."""
    while True:
        try:
            inbox.put(link.recv())
        except (EOFError, OSError):
            os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
