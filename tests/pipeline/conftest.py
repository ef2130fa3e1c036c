"""A pool without a cluster, for jobs; S3 on loopback, with and without faults."""

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from corm_batch.pipeline import driver
from corm_batch.pipeline.actor_pool import PoolLoad
from corm_batch.pipeline.worker import EngineActor
from tests.data.conftest import bucket, place, proxy, s3_client  # noqa: F401


class InProcess:
    """A pool without a cluster: one replica in this process, asked about one document at a time, longest first."""

    load = PoolLoad(ready=1)

    def __init__(self, settings, *_):
        self._actor, self._loop, self._waiting = EngineActor(settings), asyncio.new_event_loop(), []
        self._loop.run_until_complete(self._actor.load())

    wants_more = property(lambda self: len(self._waiting) < 256)
    idle = property(lambda self: not self._waiting)

    def add(self, document):
        self._waiting.append(document)

    def poll(self, timeout_s):
        self._waiting.sort(key=lambda document: len(document.text))
        return [self._loop.run_until_complete(self._actor.process(self._waiting.pop()))]

    def close(self):
        self._loop.close()


@pytest.fixture
def without_a_cluster(monkeypatch):
    monkeypatch.setattr(driver, "ActorPool", InProcess)
    monkeypatch.setattr(driver, "replica_spawner", lambda placement, settings: settings)
    monkeypatch.setattr(driver, "Placement", SimpleNamespace(of=lambda spec: SimpleNamespace(replicas=1, gpus=0)))
    monkeypatch.setattr(driver, "Stages", lambda *_, shared: SimpleNamespace(now=lambda load, answered: ""))
    monkeypatch.setattr(driver, "connected", nullcontext)
    monkeypatch.setattr(driver, "cluster_answers", lambda: True)
    monkeypatch.setattr(driver.JobMetrics, "publish", lambda *_, running=True: None)
