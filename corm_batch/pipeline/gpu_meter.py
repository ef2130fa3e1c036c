"""GpuMeter: the GPU time that replicas hold, whether they load, read or wait. Knows nothing of what they do."""

from __future__ import annotations

import time

from corm_batch.pipeline.actor_pool import PoolLoad


class GpuMeter:
    """Adds up GPU-seconds from one `count` to the next; a replica without a process yet holds nothing.

    Args:
        gpus: of each replica; 0 on the CPU.
    """

    def __init__(self, gpus: float = 0.0) -> None:
        self._gpus = gpus
        self._counted_at = time.monotonic()
        self.seconds = 0.0

    def count(self, load: PoolLoad) -> None:
        """Take the time since the last call as that of the replicas there are now."""
        now = time.monotonic()
        self.seconds += (now - self._counted_at) * self._gpus * (load.ready + load.loading - load.starting)
        self._counted_at = now
