"""Who answers at the address of a cluster: stand-ins on loopback; tests/cli/test_submit.py has a real head."""

import http.server
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from corm_batch.cluster import head
from corm_batch.cluster.head import check_head
from corm_batch.errors import ClusterError


@pytest.fixture
def answers():
    """Call with how a server answers every call; its address."""
    servers = []

    def serve(answer):
        class Every(grpc.GenericRpcHandler):
            def service(self, call):
                return grpc.unary_unary_rpc_method_handler(answer) if call.method == head._ALIVE else None

        servers.append(grpc.server(ThreadPoolExecutor(1), handlers=[Every()]))
        port = servers[-1].add_insecure_port("127.0.0.1:0")
        servers[-1].start()
        return f"127.0.0.1:{port}"

    yield serve
    for server in servers:
        server.stop(None)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(head, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(head, "_ANSWER_S", 0.5)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def said(address):
    with pytest.raises(ClusterError) as error:
        check_head(address, "RAY_ADDRESS")
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_a_head_that_is_there(answers):
    address = answers(lambda request, context: b"")
    check_head(address, "RAY_ADDRESS")
    check_head(f"ray://{address}", "RAY_ADDRESS")


def test_a_head_that_is_about_to_start_is_waited_for(answers, monkeypatch):
    monkeypatch.setattr(head, "_PATIENCE_S", 10.0)
    asked = []

    def answer(request, context):
        asked.append(request)
        if len(asked) < 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return b""

    check_head(answers(answer), "RAY_ADDRESS")
    assert asked == [b"", b""]


def test_a_head_that_wants_a_token(answers, monkeypatch):
    address = answers(lambda request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken"))
    assert said(address).startswith(
        f"RAY_ADDRESS: {address}: 401: the cluster wants a token and got none. Set RAY_AUTH"
    )
    monkeypatch.setattr(head, "has_token", lambda: True)
    assert said(address).startswith(f"RAY_ADDRESS: {address}: 403: the cluster refuses the token from ")


@pytest.mark.parametrize("wanted", [True, False])
def test_a_token_is_shown_to_the_head_that_wants_one(answers, monkeypatch, wanted):
    """In a process of its own: Ray keeps whether a token is shown, and which, for as long as a process lives."""
    metadata = []

    def answer(request, context):
        metadata.append(dict(context.invocation_metadata()).get("authorization"))
        if wanted and metadata[-1] is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-some-cluster")
    code = (
        "import os, sys; from corm_batch.cluster.head import check_head; check_head(sys.argv[1], 'RAY_ADDRESS'); "
        "print(os.environ.get('RAY_AUTH_MODE'))"
    )
    process = subprocess.run([sys.executable, "-c", code, answers(answer)], capture_output=True, text=True, timeout=60)
    assert (process.stdout, process.returncode) == ("token\n" if wanted else "None\n", 0), process.stderr
    assert metadata == [None, "Bearer of-some-cluster"] if wanted else [None]


def test_another_server(answers):
    assert "no Ray cluster answers at" in said(
        answers(lambda request, context: context.abort(grpc.StatusCode(12), "x"))
    )
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "no Ray cluster answers at" in said(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_one_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "no Ray cluster answers at" in said(address)
        assert "no answer in 0 s" in said(f"ray://{address}")
