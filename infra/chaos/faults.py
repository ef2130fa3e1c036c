"""Series: a Ray cluster of several raylets, the drivers of one job, and the faults that strike them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from corm_batch.spec import JobSpec
from infra.chaos.driver import CLOCK_VARIABLE, COMPLETE, INTERRUPTED, NO_LEASE, note

ROOT = Path(__file__).parents[2]
KINDS = ("actor", "node", "driver", "actor", "terminate", "commit", "actor", "elsewhere", "node", "rival", "freeze")
_NO_DRIVER = ("actor", "node", "join", "leave")  # the others need another driver
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
HEAD = {
    "num_cpus": 0,
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
    "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 6},
}
GRACE_S = 3.0
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Fault:
    """One thing to do to a job.

    Attributes:
        kind: of `KINDS`.
        point: answered documents from which on it may strike.
        delay_s: seconds to wait then.
        choice: picks the victim.
    """

    kind: str
    point: int
    delay_s: float
    choice: int


class Series:
    """One cluster of nodes with room for one replica each; `run` for every job, `close` at the end."""

    def __init__(self, folder: Path, stale_s: float, nodes: int = 2, clocks_s: float = 0.0) -> None:
        """Start the cluster.

        Args:
            folder: for the journal and the specs.
            stale_s: seconds after which a lease is stale.
            nodes: with room for one replica each.
            clocks_s: seconds by which the clocks of one driver and the next differ; the first one's is ahead.
        """
        self._environment = dict(os.environ)
        self._ray = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)  # sockets need short names
        # a folder of its own: nobody on this machine shall take this for the cluster to join
        os.environ.update(PYTHONPATH=str(ROOT), RAY_USAGE_STATS_ENABLED="0", RAY_TMPDIR=self._ray.name)
        os.environ["RAY_AUTH_MODE"] = "disabled"  # a token in $HOME is that of another cluster
        self.problems: list[str] = []
        self.slowest_stop_s = 0.0
        self._folder = folder
        self._stale_s = stale_s
        self._clocks = itertools.cycle([clocks_s / 2, -clocks_s / 2])
        self._journal = folder / "journal.jsonl"
        self._processes: list[subprocess.Popen[str]] = []
        self._cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        for _ in range(nodes):
            self._cluster.add_node(wait=False, **NODE)

    def run(self, spec: JobSpec, faults: Sequence[Fault], step_s: float) -> None:
        """One job from beginning to end, struck by `faults` on the way."""
        self._journal.write_text("")
        self._path = self._folder / f"{Path(spec.output.uri).name}.yaml"
        self._path.write_text(spec.to_yaml())
        self._output = Path(spec.output.uri)
        self._step_s = step_s
        self._to_come = 1 + sum(fault.kind not in _NO_DRIVER for fault in faults)
        self._spare = self._popen()
        self._start()
        for fault in faults:
            self._until(partial(self._has_answered, fault.point), "documents are answered")
            time.sleep(fault.delay_s)
            if self.problems or self._driver.poll() is not None:
                self.problems.append(f"the job was over before {fault}")
                break
            getattr(self, f"_strike_{fault.kind}")(random.Random(fault.choice))
        self._until(lambda: self._driver.poll() is not None, "the job ends", watched=False)
        if self._driver.returncode != COMPLETE:
            self.problems.append(f"the last driver ended with {self._driver.returncode}")
        self._end_processes()

    def journal(self) -> list[dict[str, Any]]:
        """What happened in the last run, oldest first."""
        lines = self._journal.read_text().splitlines()
        return sorted(map(json.loads, lines), key=lambda entry: float(entry["at"]))

    def close(self) -> None:
        """End everything."""
        self._end_processes()
        self._cluster.shutdown()  # type: ignore[no-untyped-call]
        self._ray.cleanup()
        os.environ.clear()
        os.environ.update(self._environment)

    def _popen(self) -> subprocess.Popen[str]:
        """A driver that has imported everything and waits for its word."""
        command = [sys.executable, "-m", "infra.chaos.driver", self._path, self._journal, self._step_s, self._stale_s]
        clock_s = str(next(self._clocks))
        environment = {**os.environ, "RAY_ADDRESS": self._cluster.address, CLOCK_VARIABLE: clock_s}
        log = (self._folder / "drivers.log").open("a")
        self._processes.append(
            subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=environment, stdin=subprocess.PIPE, stderr=log, text=True
            )
        )
        return self._processes[-1]

    def _take_spare(self, word: str) -> subprocess.Popen[str]:
        process = self._spare
        assert process.stdin is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()
        self._to_come -= 1
        if self._to_come:
            self._spare = self._popen()
        return process

    def _start(self) -> None:
        self._driver = self._take_spare("go")

    def _end_processes(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []

    def _strike(self, kind: str, *, driver: int = 0, actors: Sequence[int] = ()) -> None:
        note(str(self._journal), "fault", kind=kind, driver=driver, actors=list(actors))

    def _kill_driver(self, kind: str) -> None:
        self._strike(kind, driver=self._driver.pid)
        self._driver.kill()
        self._driver.wait()

    def _strike_actor(self, rng: random.Random) -> None:
        self._until(self._actors, "there is an actor")
        victim = rng.choice(self._actors())
        self._strike("actor", actors=[victim])
        _signal([victim], signal.SIGKILL)

    def _strike_node(self, rng: random.Random) -> None:
        self._strike_leave(rng)
        self._cluster.add_node(wait=False, **NODE)

    def _strike_join(self, rng: random.Random) -> None:
        """Another node; the replicas that are there stand still until one on the new node has begun something."""
        old = self._actors()
        _signal(old, signal.SIGSTOP)
        self._cluster.add_node(wait=False, **NODE)
        note(str(self._journal), "join")
        self._until(lambda: self._begun_by() - set(old), "a node that joined gets documents")
        _signal(old, signal.SIGCONT)

    def _strike_leave(self, rng: random.Random) -> None:
        raylets = self._raylets()
        raylet = rng.choice(sorted(raylets))
        workers = descendants(raylet)
        self._strike("node", actors=[pid for pid in workers if _is_actor(pid)])
        _signal([raylet, *workers], signal.SIGKILL)
        self._cluster.remove_node(raylets[raylet], allow_graceful=False)

    def _strike_driver(self, rng: random.Random) -> None:
        self._kill_driver("driver")
        self._start()

    def _strike_elsewhere(self, rng: random.Random) -> None:
        self._kill_driver("elsewhere")
        with contextlib.suppress(OSError, ValueError):  # it had not taken the lease yet
            lease = self._output / "_job" / "lease.json"
            lease.write_text(json.dumps({**json.loads(lease.read_text()), "machine": "elsewhere"}))
        self._start()

    def _strike_commit(self, rng: random.Random) -> None:
        before = self._parts()
        self._until(lambda: self._parts() - before, "a part is committed", pause_s=0.0)
        self._kill_driver("commit")
        self._start()

    def _strike_terminate(self, rng: random.Random) -> None:
        self._until(self._holds, "the driver holds the output")
        self._strike("terminate", driver=self._driver.pid)
        started = time.monotonic()
        self._driver.terminate()
        self._until((lambda: not self._holds()), "the output is free", watched=False)
        taken_s = time.monotonic() - started
        self.slowest_stop_s = max(self.slowest_stop_s, taken_s)
        if taken_s > GRACE_S:
            self.problems.append(f"the output was free {taken_s:.1f} s after SIGTERM")
        if self._driver.wait(60) not in (INTERRUPTED, COMPLETE):
            self.problems.append(f"a driver ended with {self._driver.returncode} after SIGTERM")
        self._start()

    def _strike_rival(self, rng: random.Random) -> None:
        self._until(self._holds, "the driver holds the output")
        rival = self._take_spare("rival")
        self._strike("rival")
        if rival.wait(60) != NO_LEASE:
            self.problems.append(f"a second driver ended with {rival.returncode}")

    def _strike_freeze(self, rng: random.Random) -> None:
        self._until(self._holds, "the driver holds the output")
        old = self._driver
        self._strike("freeze", driver=old.pid)
        old.send_signal(signal.SIGSTOP)
        self._start()
        self._until(self._holds, "another driver takes over")
        old.send_signal(signal.SIGCONT)
        if old.wait(120) != NO_LEASE:
            self.problems.append(f"a driver that lost its output ended with {old.returncode}")

    def _holds(self) -> bool:
        """Whether the current driver has the lease."""
        try:
            lease = json.loads((self._output / "_job" / "lease.json").read_text())
        except (OSError, ValueError):
            return False
        return bool(lease["pid"] == self._driver.pid)

    def _parts(self) -> set[Path]:
        """Files of memory figures, the first of the two that a commit writes; none before the first commit."""
        return set((self._output / "memory").glob("*"))

    def _has_answered(self, documents: int) -> bool:
        """Whether so many documents have a row, committed or not."""
        return len({entry["document"] for entry in self.journal() if entry["event"] == "row"}) >= documents

    def _begun_by(self) -> set[int]:
        """Process ids of the replicas that ever began a document."""
        return {entry["actor"] for entry in self.journal() if entry["event"] == "begin"}

    def _raylets(self) -> dict[int, Any]:
        """Nodes by process id."""
        return {node.all_processes["raylet"][0].process.pid: node for node in self._cluster.worker_nodes}

    def _actors(self) -> list[int]:
        """Process ids of the replicas."""
        return sorted(pid for raylet in self._raylets() for pid in descendants(raylet) if _is_actor(pid))

    def _until(self, condition: Callable[[], Any], what: str, *, watched: bool = True, pause_s: float = 0.05) -> None:
        """Wait for `condition`; a driver that ends meanwhile, though nobody ended it, is a problem if `watched`."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if watched and self._driver.poll() is not None:
                self.problems.append(f"the driver ended with {self._driver.returncode} before {what}")
                return
            if time.monotonic() > deadline:
                self.problems.append(f"waited {PATIENCE_S:.0f} s in vain until {what}")
                return
            time.sleep(pause_s)


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def _is_actor(pid: int) -> bool:
    """Whether this process is a replica."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::EngineActor")
    except OSError:
        return False


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
