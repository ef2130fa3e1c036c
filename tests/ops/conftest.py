"""In Triton's interpreter every kernel runs on small shapes only: it takes a second for what a GPU does in none."""

import os

import pytest
import torch

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
MOST = 700
"""Largest number among the parameters of a test that the interpreter runs."""


def numbers(value):
    if isinstance(value, int):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from numbers(part)


def pytest_collection_modifyitems(items):
    """Leave out what is too large, and what no interpreter is needed for: that runs without one."""
    for item in items if INTERPRET else ():
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if params.get("device") != "cpu" or not ("kernel" in item.name or item.path.parent.name == "kernels"):
            item.add_marker(pytest.mark.skip(reason="needs no interpreter"))
        elif getattr(params.get("form"), "needs_fp8", False) and params.get("dtype") != torch.float16:
            item.add_marker(pytest.mark.skip(reason="one type will do in the interpreter"))
        elif max((number for value in params.values() for number in numbers(value)), default=0) > MOST:
            item.add_marker(pytest.mark.skip(reason="too large for the interpreter"))


@pytest.fixture(autouse=INTERPRET)
def _rounding_as_hardware_does(monkeypatch):
    """The interpreter cuts 32-bit numbers off where hardware rounds them to the nearest of 8 bits."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    convert = interpreter._convert_float

    def converted(data, input_dtype, output_dtype, rounding_mode):
        if (input_dtype.name, output_dtype.name) != ("fp32", "fp8e4nv"):
            return convert(data, input_dtype, output_dtype, rounding_mode)
        return torch.from_numpy(data).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", converted)
