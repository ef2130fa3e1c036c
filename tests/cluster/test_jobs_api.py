"""What a server that is no Jobs API, or one that wants a token, makes of a client: a message that helps."""

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray

from corm_batch.cluster.jobs_api import connect, explained
from corm_batch.errors import ClusterError

VERSION = json.dumps({"version": "4", "ray_version": ray.__version__})


@pytest.fixture
def server(monkeypatch):
    """Call with a status and a body that every request gets; the address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-token")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    started = []

    def start(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args):
                pass

        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}"

    yield start
    for http in started:
        http.shutdown()
        http.server_close()


def test_the_given_address_wins_over_the_environment(server):
    address = server(200, VERSION)
    assert connect(address).get_address() == address
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, "Unauthorized", "401: the cluster wants a token and got none. Set RAY_AUTH_MODE=token"),
        (403, "Forbidden", "403: the cluster refuses the token from RAY_AUTH_TOKEN. Set RAY_AUTH_MODE=token"),
        (404, "", "no Ray dashboard with a Jobs API answers there, but something else does"),
        (200, "<html>", "no Ray dashboard with a Jobs API answers there, but something else does"),
        (200, "{}", "no Ray dashboard with a Jobs API answers there, but something else does"),
        (200, '{"ray_version": "1.2.0"}', "no Ray dashboard with a Jobs API answers there"),
        (500, "", "no Ray cluster answers there"),
    ],
)
def test_what_answers_is_named(server, status, body, message):
    address = server(status, body)
    with pytest.raises(ClusterError) as error:
        connect(address)
    assert str(error.value).startswith(f"{address}: {message}")
    assert "canary" not in str(error.value)


def test_nothing_answers():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"no Ray cluster answers there: .*refused.*8265"):
            connect(address)


def test_a_request_that_fails_tells_the_servers_last_line():
    with pytest.raises(ClusterError) as error, explained("http://h"):
        raise RuntimeError("Request failed with status code 500: Traceback\n  File x\nValueError: no such thing\n.")
    assert str(error.value) == "http://h: the cluster could not do it: ValueError: no such thing"
