"""What kernels of a pass over prompts are compiled for: the shape of a model, never how many tokens there are."""

from __future__ import annotations

import importlib

import pytest

from tests.ops.devices import INTERPRET

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(INTERPRET, reason="the interpreter compiles nothing")

OF_THE_MODEL = {
    "num_heads", "group", "out_h", "out_r", "key_k", "key_n", "reach", "scale", "softcap", "log_tau",
    "head_stride", "statistic_n", "entry_stride", "own_head", "own_entry",
}  # fmt: skip
"""Parameters that are the same for every prompt, or have but a few values."""


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("dense", ["_list_tiles", "_attend"]),
        ("reduction", ["_reduce"]),
        ("gather", ["_gather_kernel"]),
        ("store", ["_count_kernel", "_place_kernel", "_copy_kernel"]),
        ("top", ["_top_kernel"]),
    ],
)
def test_no_length_is_looked_at_when_a_kernel_is_compiled(module, names):
    kernels = importlib.import_module(f"corm_batch.ops.kernels.{module}")
    for name in names:
        for parameter in getattr(kernels, name).params:
            if not parameter.is_constexpr and parameter.annotation in ("int", "i32"):
                assert parameter.do_not_specialize or parameter.name in OF_THE_MODEL, (name, parameter.name)
