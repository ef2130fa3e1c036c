"""What a rank that goes wrong does, importable by its process."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from functools import partial

import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import load_model
from corm_batch.engine.parallel import Leader, ParallelEngine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.policies.base import KVPolicy


class Faulty(torch.nn.Module):
    """A model whose third forward pass raises."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, *args, **kwargs):
        self.passes += 1
        if self.passes == 3:
            raise RuntimeError("scripted fault")
        return self.inner(*args, **kwargs)


def load_faulty(folder, device, ranks):
    """The model, sound in rank 0 alone."""
    model = load_model(folder, torch.float32, device, ranks=ranks)
    return replace(model, module=Faulty(model.module)) if ranks.rank else model


def lead_for_ever(folder):
    """Lead an engine that never ends; the process ids of the other ranks go to standard output."""
    leader = Leader(2)
    load = partial(load_model, folder, torch.float32)
    engine = ParallelEngine(leader, load, KVPolicy.from_spec({"name": "full"}), EngineConfig(tensor_parallel=2))
    sys.stdout.write(f"{leader._processes[0].pid}\n")
    sys.stdout.flush()
    sampling = SamplingParams(max_new_tokens=400, ignore_eos=True)
    for _ in engine.run(Request(str(i), [7] * 100, sampling) for i in itertools.count()):
        pass
