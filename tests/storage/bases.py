"""A basis as `infra.measure.eigen_basis` writes it, of random directions."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

ERRORS = {"key_error": [[0.4, 0.3, 0.1, 0.0], [0.09, 0.05, 0.01, 0.0]],
          "value_error": [[0.5, 0.4, 0.2, 0.0], [0.3, 0.2, 0.05, 0.0]]}  # fmt: skip
"""By layer of the tiny Llama, of 4, 8, 12 and 16 directions."""


def write_basis(path: Path, num_layers=2, num_kv_heads=2, head_dim=16, weights=None, errors=()) -> str:
    """Directions for the tiny Llama, or another model, and what it is off by."""
    draw = torch.Generator().manual_seed(0)
    size = num_layers, num_kv_heads, head_dim, head_dim
    key, value = (torch.linalg.qr(torch.randn(size, generator=draw)).Q.contiguous() for _ in range(2))
    tensors = {name: torch.tensor(rows) for name, rows in dict(errors).items()}
    save_file(
        {"key": key, "value": value, **tensors}, path, metadata={"about": json.dumps({"weights_sha256": weights})}
    )
    return str(path)
