"""FaultProxy: stands between a client and an HTTP server and misbehaves, by chance and on demand.

Faults: refuse (500, nothing forwarded), busy (503, nothing forwarded), lose (forwarded, but the connection drops
without the answer), cut (half of the answer, then the connection drops), stall (half of the answer, then silence for
longer than the client waits).
"""

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("refuse", "busy", "lose", "cut", "stall")


class FaultProxy(ThreadingHTTPServer):
    """A context manager; `endpoint` is what to connect to."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host, port, *, seed=0, rate=0.0, stall_s=3.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = (host, port)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.rate = rate
        self.stall_s = stall_s
        self.requests = 0
        self.faults = Counter()
        self._plan = []
        self._away_until = 0.0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def next_are(self, *faults):
        """What becomes of the next requests, one by one; None is no fault."""
        self._plan = list(faults)

    def away_for(self, seconds):
        """Drop every connection without an answer, as a store that is away."""
        self._away_until = time.monotonic() + seconds

    def choose(self):
        with self._lock:
            self.requests += 1
            fault = self._random.choice(FAULTS) if self._random.random() < self.rate else None
            if self._plan:
                fault = self._plan.pop(0)
            if time.monotonic() < self._away_until:
                fault = "away"
            if fault:
                self.faults[fault] += 1
            return fault

    def handle_error(self, request, client_address):
        """A client that went away is what is wanted here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.choose()
        if fault in ("refuse", "busy"):
            self.send_response_only(500 if fault == "refuse" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "away":
            self.drop()
            return
        answer, content = self.ask(body)
        if fault == "lose":
            self.drop()
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault in ("cut", "stall") else content)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(self.server.stall_s)
        if fault in ("cut", "stall"):
            self.drop()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def ask(self, body):
        """The upstream's answer and its whole body."""
        connection = HTTPConnection(*self.server.upstream, timeout=60)
        with contextlib.closing(connection):
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, {**headers, "Connection": "close"})
            answer = connection.getresponse()
            return answer, answer.read()

    def drop(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format, *args):
        """Nothing."""
