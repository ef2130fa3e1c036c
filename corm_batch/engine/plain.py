"""A model as transformers has it, in float32: for what changes its weights. Where its layers share keys of distant
tokens they do so here, too, in passes over whole texts without a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from corm_batch.engine.checkpoint import find_checkpoint, load_config, merge_adapter
from corm_batch.engine.grouped_attention import share_keys
from corm_batch.engine.loader import load_module
from corm_batch.engine.shape import ModelShape


def load_plain(path: str, device: torch.device, revision: str | None = None) -> Any:
    """The model of a local folder or hub id, an adapter merged.

    Raises:
        ModelLoadError: nothing there, or unreadable weights.
    """
    checkpoint, config = find_checkpoint(path, revision), load_config(path, revision)
    module = load_module(checkpoint, config.model_type, None, dtype=torch.float32, attn_implementation="sdpa")
    if checkpoint.adapter is not None:
        module = merge_adapter(module, checkpoint)
    if (groups := ModelShape.from_config(config).groups) is not None:
        share_keys(module, groups)
    return module.to(device).eval()


def save_plain(module: Any, path: str, folder: Path, revision: str | None = None) -> None:
    """Write such a model, in the type that the one at `path` is stored in, and with that one's tokenizer.

    Raises:
        OSError: the folder cannot be written.
    """
    dtype = getattr(load_config(path, revision), "dtype", None) or torch.float32
    where, tokenizer_revision = find_checkpoint(path, revision).tokenizer
    module.to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, revision=tokenizer_revision).save_pretrained(folder)
