"""A basis as `infra.measure.eigen_basis` writes it, of random directions."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_basis(path: Path, num_layers=2, num_kv_heads=2, head_dim=16, weights=None) -> str:
    """Directions for the tiny Llama, or another model."""
    draw = torch.Generator().manual_seed(0)
    size = num_layers, num_kv_heads, head_dim, head_dim
    key, value = (torch.linalg.qr(torch.randn(size, generator=draw)).Q.contiguous() for _ in range(2))
    save_file({"key": key, "value": value}, path, metadata={"about": json.dumps({"weights_sha256": weights})})
    return str(path)
