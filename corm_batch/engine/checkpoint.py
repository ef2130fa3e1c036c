"""Checkpoint: what a model's folder or hub id holds, and what of it can be read; one line says why not.

A folder may hold a whole model, or a LoRA adapter, whose config names the model it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.peft_utils import find_adapter_config_file

from corm_batch.budgets.measured import measured_values
from corm_batch.engine.config import EngineConfig
from corm_batch.errors import ModelError, ModelLoadError, SpecError, UnsupportedModelError
from corm_batch.file_hash import file_sha256
from corm_batch.policies.base import KVPolicy

_ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are: folders or hub ids.

    Attributes:
        weights: config and weights.
        revision: branch, tag or commit of these.
        adapter: what is merged into them; None for nothing.
        adapter_revision: branch, tag or commit of it.
    """

    weights: str
    revision: str | None
    adapter: str | None = None
    adapter_revision: str | None = None

    @property
    def tokenizer(self) -> tuple[str, str | None]:
        """Where the tokenizer is, and its revision: an adapter may bring its own."""
        if self.adapter is not None and os.path.isfile(os.path.join(self.adapter, "tokenizer_config.json")):
            return self.adapter, self.adapter_revision
        return self.weights, self.revision


def find_checkpoint(path: str, revision: str | None = None) -> Checkpoint:
    """What the local folder or hub id `path` is.

    Raises:
        ModelLoadError: nothing there that is a model.
        UnsupportedModelError: a format that is not read.
    """
    if os.path.isfile(path) or path.lower().endswith(".gguf"):
        raise _not_a_folder(path)
    if os.path.isdir(path):
        adapter_file: str | None = os.path.join(path, _ADAPTER_FILE)
        if not os.path.isfile(adapter_file or ""):
            adapter_file = None
            _refuse_other_formats(Path(path))
    elif path.startswith(("/", ".", "~")):
        raise ModelLoadError(f"model.name: there is no folder {path!r}")
    else:
        adapter_file = _adapter_file_of_hub_id(path, revision)
    if adapter_file is None:
        return Checkpoint(path, revision)
    base, base_revision = _base_of(path, adapter_file)
    return Checkpoint(base, base_revision, adapter=path, adapter_revision=revision)


def weights_sha256(folder: str) -> str | None:
    """SHA-256 of a folder's weights, file by file in the order of their names; None where it has none, or is none."""
    files = sorted(Path(folder).glob("*.safetensors")) if os.path.isdir(folder) else []
    if not files:
        return None
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(file)) for file in files)).hexdigest()


def check_measured(policy: KVPolicy, engine: EngineConfig, path: str) -> None:
    """Make sure that tables of a spec, and what a form of storage takes from a file, are this model's, as far as their
    files and its folder tell.

    Raises:
        SpecError: one was measured on other weights.
    """
    for field, value in chain(measured_values(policy, "policy"), measured_values(engine, "engine")):
        if value.weights_sha256 is not None and (found := weights_sha256(path)) not in (None, value.weights_sha256):
            raise SpecError(
                f"{field}: {value.origin} was measured on other weights (model {value.model}, sha256 "
                f"{value.weights_sha256[:12]}) than those in {path} (sha256 {str(found)[:12]}): measure this model, "
                f"with {value.command}, or give what is in the file itself"
            )
    storage = engine.storage
    measured = storage.measured_on() if storage is not None else None
    if storage is not None and measured is not None and (found := weights_sha256(path)) not in (None, measured):
        raise SpecError(
            f"engine.storage: {storage.name}: its file was measured on other weights (sha256 {measured[:12]}) than "
            f"those in {path} (sha256 {str(found)[:12]}): measure this model"
        )


def load_config(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The transformers config of a local folder or hub id (its text part for a multimodal model).

    Raises:
        ModelLoadError: no model there, or its config cannot be read.
        UnsupportedModelError: a format that is not read, or a model that writes no text by itself.
    """
    checkpoint = find_checkpoint(path, revision)
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.weights, revision=checkpoint.revision, trust_remote_code=trust_remote_code
        )
        text = config.get_text_config(decoder=True)
    except Exception as error:  # a config of somebody else's can fail in any way
        if checkpoint.adapter is not None:
            raise ModelLoadError(
                f"model.name: {path!r} is an adapter of the model {checkpoint.weights!r}, which cannot be read: "
                f"{one_line(error)}; base_model_name_or_path in its {_ADAPTER_FILE} may be the path of a copy"
            ) from error
        raise ModelLoadError(f"model.name: cannot load {path!r}: {one_line(error)}") from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not getattr(config, "auto_map", None):
        whole = f"model.name: {path!r}: transformers has no causal language model of type {config.model_type!r}"
        raise UnsupportedModelError(whole)
    return text


def merge_adapter(module: Any, checkpoint: Checkpoint) -> Any:
    """The model with the adapter's weights added to its own.

    Raises:
        ModelLoadError: peft is missing, or the adapter does not suit the model.
        UnsupportedModelError: it is of a kind that cannot be merged.
    """
    assert checkpoint.adapter is not None
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelLoadError(
            f"model.name: {checkpoint.adapter!r} is an adapter; merging it needs peft: pip install 'corm-batch[lora]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            adapted = PeftModel.from_pretrained(module, checkpoint.adapter, revision=checkpoint.adapter_revision)
        if not hasattr(adapted, "merge_and_unload") and not hasattr(adapted.base_model, "merge_and_unload"):
            kind = adapted.active_peft_config.peft_type
            raise UnsupportedModelError(f"model.name: an adapter of the kind {kind} cannot be merged into the model")
        return adapted.merge_and_unload(safe_merge=True)
    except ModelError:
        raise
    except Exception as error:  # whatever does not suit whatever
        raise ModelLoadError(
            f"model.name: the adapter {checkpoint.adapter!r} cannot be merged into {checkpoint.weights!r}: "
            f"{one_line(error)}"
        ) from error


def quantization(config: Any) -> str | None:
    """The method by which a checkpoint is quantised, such as gptq, awq, fp8 or bitsandbytes; None for none."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return str(getattr(method, "value", method) or "unknown")


def one_line(error: BaseException, most: int = 400) -> str:
    """What an error of a library says, on one line and no longer than needed."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, RecursionError):
        text = f"nested too deeply ({text})"
    elif isinstance(error, KeyError):
        text = f"{text} is missing"
    return text if len(text) <= most else f"{text[:most]}..."


def _not_a_folder(path: str) -> ModelError:
    if path.lower().endswith(".gguf"):
        return UnsupportedModelError(
            f"model.name: {path!r} is a GGUF file: that format is not supported; take the model's safetensors folder"
        )
    return ModelLoadError(f"model.name: {path!r} is a file: expected a folder with config.json and safetensors")


def _refuse_other_formats(folder: Path) -> None:
    """Say what a folder without config.json is."""
    if (folder / "config.json").is_file():
        return
    names = sorted(file.name for file in folder.iterdir())
    if gguf := [name for name in names if name.lower().endswith(".gguf")]:
        raise _not_a_folder(str(folder / gguf[0]))
    raise ModelLoadError(f"model.name: no model in {str(folder)!r}: it has no config.json")


def _adapter_file_of_hub_id(name: str, revision: str | None) -> str | None:
    """Where the adapter's config of a hub id was put; None where it has none or the hub cannot be asked."""
    try:
        return find_adapter_config_file(name, revision=revision)
    except (OSError, ValueError):
        return None  # whoever loads the config says why


def _base_of(path: str, adapter_file: str) -> tuple[str, str | None]:
    """The model an adapter was made for, and its revision."""
    try:
        settings = json.loads(Path(adapter_file).read_text(encoding="utf-8"))
        base, revision = settings["base_model_name_or_path"], settings.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelLoadError(f"model.name: cannot read {adapter_file!r}: {one_line(error)}") from error
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        raise ModelLoadError(f"model.name: {adapter_file!r}: base_model_name_or_path: got {base!r}, expected a text")
    beside = os.path.join(path, base)
    if not os.path.isabs(base) and os.path.isfile(os.path.join(beside, "config.json")):
        return os.path.normpath(beside), revision
    if os.path.isabs(base) and not os.path.isdir(base):
        raise ModelLoadError(
            f"model.name: {path!r} is an adapter of the model {base!r}: there is no such folder; "
            f"base_model_name_or_path in its {_ADAPTER_FILE} may be the path of a copy"
        )
    return base, revision
