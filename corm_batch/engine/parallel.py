"""ParallelEngine: one replica whose model is spread over several processes of this host, a device each.

This process leads: it tells the others of each call before it makes the call itself, so that all take the same steps.
They end when it ends, however that happens; when one of them fails, so does the engine.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.ranks import JoinedRanks
from corm_batch.engine.request import Completion, Request
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import EngineError, ModelError, RankError, SpecError
from corm_batch.policies.base import KVPolicy

T = TypeVar("T")

_GRACE_S = 5.0
"""Seconds in which a process that failed tells why, one that was let go ends, and the group is left."""


class Leader(JoinedRanks):
    """Rank 0, which starts the others.

    Args:
        size: how many ranks there are.

    Attributes:
        forget_graphs: called before the group is left: it is not given up while a graph holds its collectives.

    Raises:
        RankError: one of them did not start, or this process has a process group already.
    """

    def __init__(self, size: int) -> None:
        if dist.is_initialized():
            raise RankError("this process has a process group already: it can lead one tensor-parallel engine")
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self._closed, self._leaving = False, threading.Lock()
        self.forget_graphs: Callable[[], None] = lambda: None
        self._links: list[multiprocessing.connection.Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, size):
                self._start(rank, size, port)
            for link in self._links:
                link.recv()  # it has its libraries: from now on nobody waits long
            super().__init__(0, size, port, listener)
        except Exception as error:
            raise self.failure(error) from error
        if torch.cuda.is_available():
            threading.Thread(target=self._watch, daemon=True).start()

    def lead(self, decide: Callable[[], T]) -> T:
        """Decide, and tell the others."""
        value = decide()
        self.send(value)
        return value

    def send(self, message: Any) -> None:
        """Say something to every other rank; they read in order.

        Raises:
            RankError: they were let go.
            OSError: one of them is gone.
        """
        if self._closed:
            raise RankError("the engine is closed")
        for link in self._links:
            link.send(message)

    def failure(self, error: Exception) -> Exception:
        """Why the ranks are out of step after `error` here; they are let go."""
        reports = []
        if not isinstance(error, SpecError | ModelError | EngineError):
            heard = multiprocessing.connection.wait(self._links, _GRACE_S)
            for rank, (link, process) in enumerate(zip(self._links, self._processes, strict=True), 1):
                if link not in heard:
                    continue
                try:
                    reports.append(f"rank {rank}: {link.recv()}")
                except (EOFError, OSError):
                    reports.append(f"rank {rank} ended with status {process.wait()}")
        self.close()
        return RankError("; ".join(reports)) if reports else error

    def close(self) -> None:
        """Let the other ranks go and wait until they are gone."""
        if self._closed:
            return
        self._closed = True
        for link in self._links:
            link.close()
        for process in self._processes:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._leave_group()

    def _start(self, rank: int, size: int, port: int) -> None:
        """Run `follower` as another process, out of reach of the terminal's signals."""
        ours, theirs = multiprocessing.Pipe()
        numbers = map(str, (theirs.fileno(), rank, size, port))
        process = subprocess.Popen(
            [sys.executable, "-m", "corm_batch.engine.follower", *numbers],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        theirs.close()
        self._processes.append(process)
        self._links.append(ours)

    def _watch(self) -> None:
        """Wake this process once another has failed: NCCL would wait for it until its time is up."""
        multiprocessing.connection.wait(self._links)
        if not self._closed:
            self._leave_group()

    def _leave_group(self) -> None:
        """Give up what this process still waits for, and the group with it; one that cannot be left in time stays."""
        with self._leaving:
            if dist.is_initialized():
                self.forget_graphs()
                leaving = threading.Thread(target=dist.distributed_c10d._abort_process_group, daemon=True)
                leaving.start()
                leaving.join(_GRACE_S)


class ParallelEngine(EngineCore):
    """An engine whose other ranks run in processes of their own.

    Args:
        leader: of the ranks.
        load: loads a rank's share of the model; takes `device` and `ranks`.
        policy, config: as `EngineCore`.
    """

    def __init__(
        self, leader: Leader, load: Callable[..., LoadedModel], policy: KVPolicy, config: EngineConfig
    ) -> None:
        self._leader = leader
        with self._together("load", load, torch.get_num_threads(), policy, config):
            super().__init__(load(device=leader.device, ranks=leader), policy, config)
        leader.forget_graphs = self.decoder.forget_graphs

    @classmethod
    def start(
        cls, load: Callable[..., LoadedModel], device: str, policy: KVPolicy, config: EngineConfig
    ) -> ParallelEngine:
        """Start the other ranks, and load the model on all of them.

        Args:
            load, policy, config: as for the class.
            device: "cpu" or "cuda".

        Raises:
            SpecError: there are not as many devices of this kind.
            RankError: a rank failed.
        """
        size, num_gpus = config.tensor_parallel, torch.cuda.device_count()
        if importlib.util.find_spec("accelerate") is None:
            raise SpecError("engine.tensor_parallel: needs accelerate: pip install 'corm-batch[tensor-parallel]'")
        if device not in ("cpu", "cuda") or (device == "cpu") != (num_gpus == 0) or 0 < num_gpus < size:
            raise SpecError(
                f"engine.tensor_parallel: {size} ranks on {device!r}, where {num_gpus} GPUs are visible; expected cuda "
                f"and a GPU for each, or cpu and none"
            )
        return cls(Leader(config.tensor_parallel), load, policy, config)

    @property
    def pool_bytes_used(self) -> int:
        """Bytes of the pages somebody holds, over all ranks."""
        with self._together("pool_bytes_used"):
            return super().pool_bytes_used

    def add(self, request: Request) -> None:
        """As `EngineCore.add`; the others hear of it once it is known to be in order, and never ask its `stop`."""
        super().add(request)
        with self._together("add", replace(request, stop=None)):
            pass

    def open_reading(self, reading: SharedReading) -> None:
        """As `EngineCore.open_reading`; the others make one of the same id."""
        super().open_reading(reading)
        with self._together("open_reading", reading):
            pass

    def close_reading(self, reading_id: str) -> None:
        """As `EngineCore.close_reading`."""
        with self._together("close_reading", reading_id):
            super().close_reading(reading_id)

    def cancel(self, request_id: str) -> None:
        """As `EngineCore.cancel`."""
        with self._together("cancel", request_id):
            super().cancel(request_id)

    def step(self) -> list[Completion]:
        """As `EngineCore.step`.

        Raises:
            RankError: another rank failed; the engine is closed.
        """
        with self._together("step"):
            return super().step()

    def close(self) -> None:
        """End the other ranks; the engine answers no more."""
        self._leader.close()

    @contextmanager
    def _together(self, name: str, *args: Any) -> Iterator[None]:
        """Have the other ranks make a call that is made here meanwhile; whatever fails here ends them."""
        try:
            self._leader.send((name, args))
            yield
        except Exception as error:
            reason = self._leader.failure(error)
            if reason is error:
                raise
            raise reason from error
        except BaseException:
            self.close()
            raise
