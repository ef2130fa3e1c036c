"""What a change does to speed: two checkouts answer the same workload in turn, on one card, in one run.

    python -m infra.measure.compare ../before . --workload llama3.1-8b-4k:256:exact --output RESULT.json

Each checkout runs in a process of its own that stays, so that model and compiled code are made once; only one of the
two works at a time, and gives its page pool back before the other's turn. A workload is NAME:DOCUMENTS:PREFILL with the
names of `corm-batch bench`. The first turn of each warms up and does not count. Quoted are medians and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from infra.measure.record import begin_record, write_record

_FIGURES = ("wall_s", "prefill_tokens_per_s", "decode_ms_per_step")
_WORKER = """
import gc, json, sys, torch
from corm_batch.bench.engine_run import measure_engine
from corm_batch.bench.model import random_model
from corm_batch.bench.workload import find_workload
name, documents, prefill, device = sys.argv[1:]
workload = find_workload(name, documents=int(documents))
model = random_model(workload.model, workload.torch_dtype, torch.device(device))
for _ in sys.stdin:
    figures = measure_engine(model, workload, workload.policy("corm"), prefill)
    gc.collect()
    torch.cuda.empty_cache()
    print("figures", json.dumps([figures.wall_s, figures.prefill_tokens_per_s, figures.decode_ms_per_step]), flush=True)
"""


class Checkout:
    """One of the two: a process over the package of a folder.

    Args:
        folder: the checkout.
        workload: NAME:DOCUMENTS:PREFILL.
        device: cuda or cpu.
    """

    def __init__(self, folder: Path, workload: str, device: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, *workload.split(":"), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
            },
        )

    def turn(self) -> dict[str, float]:
        """Answer the workload once; its figures by name.

        Raises:
            RuntimeError: the process ended instead; its own error stands on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # one that ended before it was asked has written why, and no figures
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("figures "):
                return dict(zip(_FIGURES, json.loads(line.removeprefix("figures ")), strict=True))
        raise RuntimeError(f"a checkout's process ended with status {self._process.wait()}")

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def compare(before: Path, after: Path, workload: str, device: str, repeats: int) -> dict[str, Any]:
    """Both checkouts' figures of every turn, medians, and what `after` has of `before`."""
    turns: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    sides = {"before": Checkout(before, workload, device), "after": Checkout(after, workload, device)}
    try:
        for repeat in range(repeats + 1):
            for side, checkout in sides.items():
                figures = checkout.turn()
                if repeat:
                    turns[side].append(figures)
    finally:
        for checkout in sides.values():
            checkout.close()
    medians = {
        side: {name: statistics.median(turn[name] for turn in found) for name in _FIGURES}
        for side, found in turns.items()
    }
    ratio = {name: medians["after"][name] / medians["before"][name] for name in _FIGURES}
    return {"workload": workload, "medians": medians, "after_over_before": ratio, "turns": turns}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print the ratios, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--workload", action="append", required=True, metavar="NAME:DOCUMENTS:PREFILL")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    record = begin_record("compare", device=name, torch=torch.__version__, rows=[])
    for workload in options.workload:
        record["rows"].append(
            compare(options.before.resolve(), options.after.resolve(), workload, device, options.repeats)
        )
        ratios = ", ".join(f"{name} {value:.3f}" for name, value in record["rows"][-1]["after_over_before"].items())
        print(f"{workload}: after / before: {ratios}", flush=True)
        if options.output is not None:  # after each, so that a run that is ended keeps what it measured
            write_record(record, options.output)


if __name__ == "__main__":
    main()
