"""RealCluster: a Ray head on loopback that wants a token, as `ray start` makes it, and commands against it."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.until import until

ROOT = Path(__file__).parents[2]
CANARIES = {"AWS_SECRET_ACCESS_KEY": "canary-of-the-store", "RAY_AUTH_TOKEN": "canary-of-the-cluster"}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class RealCluster:
    """`ray start --head` with a token; commands run as processes, for Ray takes the token from their environment."""

    def __init__(self, folder):
        gcs, dashboard, agent, client = free_ports(4)
        self.folder = folder
        self.address = f"127.0.0.1:{gcs}"
        self.url = f"http://127.0.0.1:{dashboard}"
        self.environment = {
            **os.environ,
            **CANARIES,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": self.url,
        }
        options = {
            "port": gcs,
            "num-cpus": 2,
            "object-store-memory": 100 * 2**20,
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent,
            "ray-client-server-port": client,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "node-ip-address": "127.0.0.1",
            "temp-dir": folder,
        }
        self._command = [
            str(Path(sys.executable).parent / "ray"),
            *("start", "--head", "--block"),
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        self.process = None
        self._started = []

    def start_head(self):
        """A head, on the same ports every time; returns when its Jobs API answers."""
        log = Path(self.folder, "start.log")
        with log.open("w") as file:
            self.process = subprocess.Popen(
                self._command, env=self.environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

        def answers():
            assert self.process.poll() is None, log.read_text()
            with suppress(OSError):
                return self.get("/api/jobs/")

        until(answers)

    def kill_head(self):
        """SIGKILL to the head's own processes: GCS, raylet, dashboard, agents; its workers and drivers are left."""
        head = self.process.pid
        for pid in [head, *(pid for pid, (parent, _) in processes().items() if parent == head)]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def get(self, path):
        """An answer of the Jobs API, as it is."""
        headers = {"Authorization": f"Bearer {CANARIES['RAY_AUTH_TOKEN']}"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=20) as answer:
            return answer.read().decode()

    def start(self, *command, **environment):
        """A Python process, ended at the latest with the cluster."""
        self._started.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**self.environment, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self._started[-1]

    def call(self, *arguments):
        """A command line to its end: exit code, standard output, standard error."""
        process = self.start("-m", "corm_batch.cli", *arguments)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def close(self):
        for process in self._started:
            process.kill()
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def processes():
    """The parent and the command line of every process that runs, by its id."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            if command := Path(f"/proc/{name}/cmdline").read_text(errors="replace").replace("\0", " "):
                found[int(name)] = (parent, command)
    return found


def descendants(*pids):
    """Command lines of these processes and of all below them, by process id, as far as they run."""
    all_ = processes()
    found = set(pids)
    while more := {pid for pid, (parent, _) in all_.items() if parent in found} - found:
        found |= more
    return {pid: all_[pid][1] for pid in found & set(all_)}
