"""usual_storage(): the form of kept entries where `engine.storage` names none."""

from __future__ import annotations

import torch

from corm_batch.engine.shape import ModelShape
from corm_batch.policies.base import KVPolicy
from corm_batch.storage.base import Storage
from corm_batch.storage.int8 import Int8
from corm_batch.storage.model import Model


def usual_storage(policy: KVPolicy, shape: ModelShape, dtype: torch.dtype) -> Storage:
    """`int8`, which loses less than a policy does that evicts, where a model bears it; else `model`.

    A policy that keeps all is asked for the model's own answers, and a model in float32 for exact ones. What is said of
    the model has to follow from its config alone: a job's plan, its driver and its replicas each ask here.

    Args:
        policy: whose entries they are.
        shape: of the model.
        dtype: in which it computes.
    """
    bears_it = dtype.itemsize == 2 and shape.head_dim % 2 == 0 and shape.plain_keys
    return Int8() if bears_it and not policy.keeps_all else Model()
