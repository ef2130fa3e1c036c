"""A GGUF file of llama.cpp as a folder that the engine loads: weights in bfloat16, tokenizer, chat template, configs.

Knows nothing of where the file comes from. Needs the packages of the extra `gguf`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(file: Path, folder: Path) -> None:
    """Write config, generation config, weights, tokenizer and chat template of `file` to `folder`.

    Raises:
        ValueError: the file lacks a weight, or splits texts in another way than those of SmolLM.
        Exception: whatever transformers raises for a file that it cannot read.
    """
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    # transformers reads the file three times and makes the same map of names for every module: 20 s instead of 10
    with patch.multiple(gguf, GGUFReader=cache(gguf.GGUFReader), get_tensor_name_map=cache(gguf.get_tensor_name_map)):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, output_loading_info=True
        )
        model, found = loaded
        tokenizer = AutoTokenizer.from_pretrained(**source)
        field = gguf.GGUFReader(str(file)).get_field("tokenizer.ggml.pre")
        split = None if field is None else field.contents()
    if missing := sorted(found["missing_keys"]):  # transformers fills them with random numbers
        raise ValueError(f"{file.name}: it lacks {', '.join(missing)}")
    if split != "smollm":
        raise ValueError(f"{file.name}: tokenizer.ggml.pre is {split!r}; only 'smollm' is known here")
    # transformers leaves that field unread, and blanks before a digit would become other tokens than in training
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
