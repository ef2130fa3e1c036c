"""How many documents a step takes; whole contests are in test_run.py."""

from corm_batch.calibration import contest
from corm_batch.calibration.contest import Clock


def test_steps_grow_while_there_is_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(contest.time, "monotonic", lambda: now[0])
    clock = Clock(0.0, 100.0)
    assert clock.affordable([1] * 50, 50.0) == 1
    clock.took([1], 5.0)
    assert clock.affordable([1] * 50, 50.0) == 2
    clock.took([1, 1], 4.0)
    now[0] = 45.0
    assert clock.affordable([1] * 50, 50.0) == 2  # 5 seconds at 2, with caution
    assert clock.affordable([1, 2, 1], 50.0) == 1
    assert clock.affordable([3, 1], 50.0) == 0
    assert clock.affordable([1] * 50, 100.0) == 4
    assert clock.affordable([1] * 3, 100.0) == 3
    now[0] = 99.0
    assert clock.affordable([1] * 50, 100.0) == 0
