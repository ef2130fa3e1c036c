"""Engine.from_pretrained(): load a model, alone or over several GPUs, and make an engine of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, get_args

import torch

from corm_batch.engine.checkpoint import check_measured, load_config
from corm_batch.engine.config import EngineConfig, WeightForm
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.loader import find_device, load_model
from corm_batch.engine.parallel import ParallelEngine
from corm_batch.engine.support import refuse_unsupported
from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.defaults import with_name


class Engine(EngineCore):
    """One model replica in this process; see `EngineCore` for what it does."""

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str,
        *,
        policy: Mapping[str, Any] | KVPolicy,
        dtype: str = "bfloat16",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        end_token_ids: Collection[int] = (),
        apply_generation_config: bool = True,
        weights: WeightForm = "stored",
        **config: Any,
    ) -> EngineCore:
        """Load a model and make an engine of it, with `tensor_parallel` of 2 or more over as many processes.

        Args:
            path_or_hub_id: a local folder or a hub id.
            policy: a policy, or its name and fields, such as {"name": "corm", "window": 256}.
            dtype: "float32", "bfloat16" or "float16".
            device: "cpu", "cuda", "cuda:1" ...; "auto" takes a GPU when there is one, as many as it shall share.
            revision, trust_remote_code, end_token_ids, apply_generation_config, weights: as `load_model`.
            **config: fields of EngineConfig.

        Raises:
            SpecError: a wrong policy, dtype, form of weights or config field; a table of heads that was measured on
                another model.
            ModelLoadError, UnsupportedModelError, RankError: see `load_model` and `ParallelEngine.start`.
        """
        chosen = KVPolicy.from_spec(with_name(policy))
        settings = EngineConfig.parse(config)
        if dtype not in ("float32", "bfloat16", "float16"):
            raise SpecError(f"model.dtype: got {dtype!r}, allowed are float32, bfloat16 and float16")
        if weights not in get_args(WeightForm):
            raise SpecError(f"model.weights: got {weights!r}, allowed are {' and '.join(get_args(WeightForm))}")
        device = find_device(device)
        check_measured(chosen, settings, path_or_hub_id)
        load = partial(
            load_model, path_or_hub_id, getattr(torch, dtype), max_model_len=settings.max_model_len, revision=revision,
            trust_remote_code=trust_remote_code, end_token_ids=frozenset(end_token_ids),
            apply_generation_config=apply_generation_config, weights=weights,
        )  # fmt: skip
        if settings.tensor_parallel > 1:
            model_config = load_config(path_or_hub_id, revision, trust_remote_code)
            refuse_unsupported(model_config, settings.max_model_len, settings.tensor_parallel)
            return ParallelEngine.start(load, device, chosen, settings)
        return cls(load(device=torch.device(device)), chosen, settings)
