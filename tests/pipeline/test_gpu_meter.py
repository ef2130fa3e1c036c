import pytest

from corm_batch.pipeline import gpu_meter
from corm_batch.pipeline.actor_pool import PoolLoad
from corm_batch.pipeline.gpu_meter import GpuMeter


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(gpu_meter, "time", clock)
    return clock


def test_time_counts_by_replicas_that_hold_a_gpu(clock):
    meter = GpuMeter(2.0)
    for seconds, load in (
        (10, PoolLoad(loading=3, starting=3)),  # none has a process yet
        (5, PoolLoad(loading=2, starting=1, ready=1)),
        (20, PoolLoad(ready=3, empty=1)),
        (7, PoolLoad(empty=4)),
    ):
        clock.now += seconds
        meter.count(load)
    assert meter.seconds == 2.0 * (5 * 2 + 20 * 3)


def test_replicas_without_a_gpu_hold_none(clock):
    meter = GpuMeter()
    clock.now += 60
    meter.count(PoolLoad(ready=4))
    assert meter.seconds == 0.0
