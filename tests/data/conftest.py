import uuid
from contextlib import contextmanager

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from corm_batch.data import filesystem, patience
from tests.data.fault_proxy import FaultProxy
from tests.seaweed import KEY, client_of

VARIABLES = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_REGION": "us-east-1"}
FOREIGN = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")


@contextmanager
def found_by_the_environment(endpoint):
    """A client of the S3 server there, which is found through the environment alone."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in FOREIGN:
            monkeypatch.delenv(name, raising=False)
        for name, value in {**VARIABLES, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield client_of(endpoint)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def s3_client(s3_endpoint):
    """A client of a real S3 server."""
    with found_by_the_environment(s3_endpoint) as client:
        yield client


@pytest.fixture(scope="module")
def moto_client():
    """A client of an imitation, for whoever puts faults between it and the job: it takes `s3_client`'s place."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with found_by_the_environment(f"http://{host}:{port}") as client:
        yield client
    server.stop()


@pytest.fixture
def bucket(s3_client):
    """URI of a bucket of this test's own."""
    name = f"bucket-{uuid.uuid4()}"
    s3_client.create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def proxy(s3_client, monkeypatch):
    """What S3 is reached through in this test: no faults until they are asked for; waits are short."""
    host, port = s3_client.meta.endpoint_url.removeprefix("http://").split(":")
    monkeypatch.setattr(filesystem, "_READ_S", 0.25)
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.02)
    with FaultProxy(host, int(port), stall_s=0.6) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        yield faulty
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request):
    """A writable place, once on the disk and once on S3: what holds for one must hold for the other."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return str(request.getfixturevalue("tmp_path"))
