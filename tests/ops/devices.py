"""Where a kernel is compared with its definition: on a GPU, and on a CPU where Triton is interpreted."""

from __future__ import annotations

import os

import pytest

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
KERNEL_DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRET, reason="needs Triton's interpreter")),
]
