"""until: wait for what another process does."""

import time


def until(condition, seconds=180):
    """What `condition` gives once that is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
