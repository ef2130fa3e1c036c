"""The policies here that do what kvpress' presses do, by the name of the press in `kvpress_positions.PRESSES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POSITIONS_CHUNK = 77
"""Tokens of Compactor's parts: four of them are the 320 of `kvpress_positions` less those it never drops."""
KVZIP_CHUNK = 128
"""Tokens of the prompt that KVzip has repeated at a time: of 320 of `kvpress_positions` three chunks."""
_SNAPKV: Mapping[str, Any] = {"name": "snapkv", "window": 32, "recent": 32, "pooling": 1}


def policies(kept: int | float, num_tokens: int, compactor_chunk: int) -> dict[str, Mapping[str, Any]]:
    """Specs under which a head keeps so many entries of a prompt, on average over those that share them.

    Args:
        kept: entries, or as a float a share of the prompt's.
        num_tokens: of the prompt, asked for by StreamingLLM alone, which has no budget but a window.
        compactor_chunk: tokens of Compactor's parts.
    """
    budget = {"name": "uniform", "max_kept": kept}
    entries = kept if isinstance(kept, int) else int(kept * num_tokens)
    return {
        "Knorm": {"name": "l2_norm", "recent": 0, "skip_layers": [], "budget": budget},
        "KeyDiff": {"name": "keydiff", "recent": 0, "budget": budget},
        "TOVA": {"name": "tova", "recent": 1, "budget": budget},  # there the newest entry never leaves
        "SnapKV": {**_SNAPKV, "budget": budget},
        "SnapKV pooled": {**_SNAPKV, "pooling": 7, "pooled": "mean", "budget": budget},
        "PyramidKV": {**_SNAPKV, "budget": {**budget, "name": "pyramidkv", "beta": 20}},
        "ExpectedAttention": {"name": "expected_attention", "budget": budget},
        "ObservedAttention": {"name": "h2o", "recent": 1, "by_age": True, "budget": budget},
        "Compactor": {"name": "compactor", "chunk": compactor_chunk, "budget": budget},
        "StreamingLLM": {"name": "streaming_llm", "sinks": 4, "recent": entries - 3},  # the next query's included
        "AdaKV of SnapKV": {**_SNAPKV, "budget": {**budget, "name": "adakv", "floor": 0.2}},
    }


def kvzip(kept: int | float, chunk: int, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same of `kvpress_positions.KVzip`, which asks a model with these tokens to repeat chunks of so many."""
    budget = {"name": "adakv", "max_kept": kept, "floor": 0.0}
    return {"name": "kvzip", "chunk": chunk, "budget": budget, **asked}
