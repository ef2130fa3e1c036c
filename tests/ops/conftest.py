"""In Triton's interpreter every kernel runs on small shapes only: it takes a second for what a GPU does in none."""

from collections import defaultdict
from zlib import crc32

import pytest
import torch

from tests.ops.devices import INTERPRET

MOST = 700
"""Largest number among the parameters of a test that the interpreter runs."""
MANY = 20
"""Combinations of a test's parameters of which a part will do: values of one meet those of every other all the same."""


def numbers(value):
    if isinstance(value, int):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from numbers(part)


def fits_interpreter(item):
    """Whether the interpreter is needed, and quick enough: small sizes, every number format of entries once."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if params.get("device") != "cpu" or not ("kernel" in item.name or item.path.parent.name == "kernels"):
        return False
    if getattr(params.get("form"), "scales", ()) and params.get("dtype") != torch.float16:
        return False
    return max((number for value in params.values() for number in numbers(value)), default=0) <= MOST


def pytest_collection_modifyitems(config, items):
    """Leave out what the interpreter need not run, and two of three of a test's many combinations: a GPU runs all."""
    if not INTERPRET:
        return
    tests = defaultdict(list)
    for item in filter(fits_interpreter, items):
        tests[item.path, item.originalname].append(item)
    kept = [item for test in tests.values() for item in (test if len(test) < MANY else test[::3])]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_runtest_setup(item):
    """What a test draws follows from its name: not from the tests before it, which depend on what is left out."""
    torch.manual_seed(crc32(item.nodeid.encode()))


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
