"""Rows for the loop: made by worker processes in an order that their number does not change, and put on the device."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from queue import Empty
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.training.compose import Composer, ComposerArguments, Row
from infra.training.model import Settings


def step_inputs(row: Row, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, targets, weights (each [T]) and cu_seqlens on the device; nothing predicts another sequence."""
    ids = torch.from_numpy(row.ids.astype(np.int64))
    weight = torch.from_numpy(row.weight).float().roll(-1)
    last = torch.from_numpy(row.cu_seqlens).long().unique()[1:] - 1
    weight[last] = 0
    tensors = (ids, ids.roll(-1), weight, torch.from_numpy(row.cu_seqlens))
    return tuple(t.to(device, non_blocking=True) for t in tensors)  # type: ignore[return-value]


def compose_rows(
    queue: Any, composer_arguments: ComposerArguments, settings: Settings, done: Any, first: int, every: int
) -> None:
    """A worker process: rows first, first + every, ... of the run, each from a seed of its own."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_it() -> None:  # do not outlive a killed run
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
    composer = Composer(*composer_arguments, 0)
    for index in range(first, settings.rows, every):
        composer.random.seed(f"{settings.seed} {index}")
        queue.put(composer.row(settings.row, max(done.value, index / settings.rows)))


def stream_rows(
    composer_arguments: ComposerArguments, settings: Settings, done: Any, first: int, workers: int
) -> Iterator[Row]:
    """Rows of the run from number `first` on, in order, made by worker processes.

    Args:
        composer_arguments: of `Composer`, but for the seed.
        settings: of the run.
        done: a number that processes share, the share of the run that is done (0..1) where time goes ahead of the rows.
        first: number of the first row.
        workers: processes.

    Raises:
        RuntimeError: from the iterator, when a worker died; it has printed why.
    """
    context = multiprocessing.get_context("fork")
    made = []
    for offset in range(workers):
        queue = context.Queue(maxsize=4)
        arguments = (queue, composer_arguments, settings, done, first + offset, workers)
        made.append((queue, context.Process(target=compose_rows, args=arguments, daemon=True)))
        made[-1][1].start()

    def take(index: int) -> Row:
        queue, worker = made[index % workers]
        while True:
            alive = worker.is_alive()  # asked before looking: a worker may end with its last rows in the queue
            try:
                row: Row = queue.get(timeout=1)
                return row
            except Empty:
                if not alive:
                    raise RuntimeError(f"the worker that composes row {first + index} died") from None

    return map(take, range(settings.rows - first))
