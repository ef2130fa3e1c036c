"""Load a model so that its attention goes through this engine, and refuse what the engine would compute wrongly.

Two lines of defence: features known to break a packed, paged forward are refused by name from the config; then the
loaded model has to pass the probe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.distributed.configuration_utils import DistributedConfig

from corm_batch.engine.attention import ATTENTION, Batch, Running, read_logits, run_layers_once
from corm_batch.engine.checkpoint import Checkpoint, find_checkpoint, load_config, merge_adapter, one_line
from corm_batch.engine.config import WeightForm
from corm_batch.engine.fp8 import exact_inputs, quantize_linears, refuse_old_gpu
from corm_batch.engine.fp8_format import foreign_quantization, refuse_quantizing, stored_fp8
from corm_batch.engine.fp8_loading import Fp8Config, as_stored, make_plain, settle
from corm_batch.engine.fusion import fuse, slice_rows
from corm_batch.engine.joined import join_projections
from corm_batch.engine.probe import probe
from corm_batch.engine.ranks import ALONE, Ranks
from corm_batch.engine.rules import NO_RULES, Rules, end_tokens, read_generation_config
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.spared import Spared, let_idle, spare_projections
from corm_batch.engine.support import refuse_unsupported
from corm_batch.errors import ModelLoadError, RankError, UnsupportedModelError
from corm_batch.kv.layers import Layers


def _no_tokenizer() -> Any:
    raise ModelLoadError("the model was made without one")


@dataclass(frozen=True)
class LoadedModel:
    """A model whose forward pass the engine may trust.

    Attributes:
        module: the transformers model, in eval mode.
        shape: its counts.
        windows: one a layer: the sliding window the model itself puts there, None for none.
        eos_token_ids: tokens that end an answer.
        device, dtype: where and in what precision it runs.
        ranks: the processes that share it.
        rules: what its generation config says about choosing tokens.
        load_tokenizer: makes its tokenizer; whatever it may raise.
        spared: by layer, projections that a pass may leave out.
    """

    module: torch.nn.Module
    shape: ModelShape
    windows: tuple[int | None, ...]
    eos_token_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = ALONE
    rules: Rules = NO_RULES
    load_tokenizer: Callable[[], Any] = _no_tokenizer
    spared: dict[int, list[Spared]] = field(default_factory=dict, compare=False)

    def layers(self, sharing: Mapping[int, int]) -> Layers:
        """Which of its layers have entries of their own where some borrow others', whose keys and values are computed
        from now on where a pass asks for them.

        Args:
            sharing: by borrower, whose it borrows.

        Raises:
            SpecError: there is no such layer, or the model has it see other tokens than the owner does.
            UnsupportedModelError: layers that share keys see a window.
        """
        layers = Layers(self.shape.num_layers, sharing, self.shape.groups)
        layers.check_windows(self.windows)
        width = self.shard.num_kv_heads * self.shape.head_dim
        self.spared.update(spare_projections(self.module, layers.borrowers, width))
        return layers

    @property
    def shard(self) -> ModelShape:
        """The counts of what this rank has of the model."""
        return self.shape.shard(self.ranks.size)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [S, V] of the rows the batch wants; raises as `logits`."""
        return self.logits(Running(batch), batch.logit_rows)

    def logits(self, running: Running, rows: Tensor) -> Tensor:
        """Logits of some rows of a pass, [rows, V]; its layers run when it is first asked.

        Raises:
            torch.OutOfMemoryError: the device is full.
            RankError: so is one of several: the others are in the middle of the pass and cannot be called back.
        """
        let_idle(self.spared, running.borrowing)
        try:
            return read_logits(self.module, running, rows)
        except torch.OutOfMemoryError as error:
            self.check_alone(error)
            raise

    def check_alone(self, error: torch.OutOfMemoryError) -> None:
        """Nothing where this process is alone: it may try less.

        Raises:
            RankError: where it is not: the others are in the middle of the pass and cannot be called back.
        """
        if self.ranks.size > 1:
            raise RankError(f"rank {self.ranks.rank}: lower engine.memory_fraction or kv_memory: {error}") from error


def load_model(
    path: str,
    dtype: torch.dtype,
    device: torch.device,
    max_model_len: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    end_token_ids: Collection[int] = (),
    apply_generation_config: bool = True,
    weights: WeightForm = "stored",
    ranks: Ranks = ALONE,
) -> LoadedModel:
    """Load a local folder or hub id, or a rank's share of it; safetensors only.

    Args:
        path, revision, trust_remote_code: as in transformers; an adapter is merged into its model.
        dtype, device: what it runs in and on.
        max_model_len: tokens of prompt and answer at most.
        end_token_ids: tokens that end an answer beside those its config and generation config name.
        apply_generation_config: False to take only end tokens from the generation config.
        weights: as the checkpoint has them, or the linear layers of the decoder blocks in 8 bits.
        ranks: the processes that share it.

    Raises:
        ModelLoadError: nothing there, or unreadable weights.
        UnsupportedModelError: the engine would compute it wrongly; the message names the feature.
    """
    checkpoint = find_checkpoint(path, revision)
    config = load_config(path, revision, trust_remote_code)
    refuse_unsupported(config, max_model_len, ranks.size)
    generation = read_generation_config(checkpoint)
    module = _place(checkpoint, config, dtype, device, weights, ranks, trust_remote_code)
    run_layers_once(module)
    shape = ModelShape.from_config(config)
    with exact_inputs(module):
        windows = probe(module, shape.shard(ranks.size), config.model_type)
    if foreign_quantization(config) is None:
        speed_up(module, ranks.size)
    generation = generation or module.generation_config
    ends = end_tokens(shape.vocab_size, generation, module.config, config) | frozenset(end_token_ids)
    rules = Rules.read(generation, shape.vocab_size, ends) if apply_generation_config else NO_RULES
    tokenizer = partial(AutoTokenizer.from_pretrained, path, revision=revision, trust_remote_code=trust_remote_code)
    return LoadedModel(module, shape, windows, ends, device, dtype, ranks, rules, tokenizer)


def find_device(name: str) -> str:
    """The device that a name means: of "auto" a GPU where there is one."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _place(
    checkpoint: Checkpoint,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    weights: WeightForm,
    ranks: Ranks,
    trust_remote_code: bool,
) -> Any:
    """The model, or this rank's share, on its device, its weights in the form they run in."""
    refuse_quantizing(config, weights)
    stored, foreign = stored_fp8(config), foreign_quantization(config)
    if stored is not None or weights == "fp8":
        refuse_old_gpu(device, "model.weights: fp8" if stored is None else "model.name: a checkpoint stored in fp8")
    if ranks.size > 1 and (foreign or checkpoint.adapter):
        what = f"a checkpoint quantised with {foreign}" if foreign else "an adapter"
        raise UnsupportedModelError(f"model.name: {what} is not supported with engine.tensor_parallel")
    options: dict[str, Any] = {"device_map": {"": device}} if foreign else {}
    if ranks.size > 1:
        options["distributed_config"] = DistributedConfig(tp_size=ranks.size)
    if stored is not None:
        options["config"] = as_stored(checkpoint, stored.inputs == "static", trust_remote_code)
    elif weights == "fp8" and checkpoint.adapter is None:
        options["quantization_config"] = Fp8Config(str(device), ranks.size)
    with ranks.few_groups():
        module = load_module(
            checkpoint, config.model_type, foreign, dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
    if foreign:
        return module.eval()  # transformers has put it in its place
    make_plain(module)
    if checkpoint.adapter is not None:
        if stored is not None:
            settle(module, dtype, "an adapter is merged into them")
        module = merge_adapter(module, checkpoint)
        if weights == "fp8":
            quantize_linears(module, device)
    module.to(device)
    if stored is not None and checkpoint.adapter is None:
        settle(module, dtype, "the checkpoint leaves their inputs as they are" if stored.inputs == "none" else None)
    return module.eval()


def load_module(checkpoint: Checkpoint, family: str, method: str | None, **options: Any) -> Any:
    """The transformers model of a checkpoint, all of its weights in place."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.weights, use_safetensors=True, revision=checkpoint.revision, output_loading_info=True,
            **{"attn_implementation": ATTENTION} | options,
        )  # fmt: skip
    except Exception as error:  # transformers, and what it loads a quantised model with, fail in any way
        if "does not support" in str(error) and "attention" in str(error).lower():
            raise UnsupportedModelError(f"{family}: does not call its attention through an interface") from error
        kind = f", which is quantised with {method}" if method else ""
        raise ModelLoadError(
            f"model.name: cannot load the weights of {checkpoint.weights!r}{kind}: {one_line(error)}"
        ) from error
    module, found = loaded
    check_weights(module, found, checkpoint.weights)
    return module


def check_weights(module: torch.nn.Module, found: Mapping[str, Any], path: str) -> None:
    """Refuse weights that are not the model's: transformers fills what is missing with random numbers.

    Args:
        module: as loaded.
        found: transformers' loading info, its `missing_keys` and `unexpected_keys`.
        path: for the message.

    Raises:
        ModelLoadError: one is missing, or one that the config leaves no place for.
    """
    if missing := sorted(found["missing_keys"]):
        raise ModelLoadError(f"model.name: the weights in {path!r} lack {_some(missing)}")
    modules = dict(module.named_modules())
    stacks = {name for name, one in modules.items() if isinstance(one, torch.nn.ModuleList)}
    misplaced = []
    for key in sorted(found["unexpected_keys"]):
        owner, _, leaf = key.rpartition(".")
        off = owner in modules and leaf in modules[owner]._parameters  # a bias the config turns off
        beyond = any(key.startswith(f"{name}.") and not _inside(key, name, modules) for name in stacks)
        if off or beyond:
            misplaced.append(key)
    if misplaced:
        raise ModelLoadError(
            f"model.name: the weights in {path!r} have {_some(misplaced)}, for which its config.json has no place"
        )


def _inside(key: str, stack: str, modules: Mapping[str, Any]) -> bool:
    """Whether a weight below a list of layers belongs to one that there is."""
    return f"{stack}.{key.removeprefix(stack + '.').split('.')[0]}" in modules


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def speed_up(module: torch.nn.Module, num_shards: int = 1) -> None:
    """Bound what an MLP needs for a long prompt, and on a GPU join projections and compile the layers, in place.

    Layers that talk to other GPUs are left uncompiled: collectives in compiled code have not been measured.
    """
    slice_rows(module)
    if num_shards == 1 and next(module.parameters()).device.type == "cuda":
        join_projections(module)
        fuse(module)
