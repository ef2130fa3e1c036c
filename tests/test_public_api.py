"""The public names are exactly `__all__`, few, importable, documented and cheap to reach."""

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import corm_batch


@pytest.mark.parametrize("name", corm_batch.__all__)
def test_public_name_is_importable_and_documented(name):
    assert inspect.getdoc(getattr(corm_batch, name))


def test_all_is_small():
    assert len(corm_batch.__all__) <= 38


def test_no_other_public_name():
    modules = {name for name, value in vars(corm_batch).items() if inspect.ismodule(value)}
    public = {name for name in vars(corm_batch) if not name.startswith("_")}
    assert public - modules - {"TYPE_CHECKING", "Any", "annotations"} <= set(corm_batch.__all__)
    assert set(corm_batch._MODULES) == set(corm_batch.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        corm_batch.no_such_name  # noqa: B018


def test_import_is_cheap():
    code = "import sys, corm_batch; print(*{'torch', 'ray', 'transformers', 'pyarrow', 'pydantic'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ""


def test_the_version_is_that_of_the_package():
    assert corm_batch.__version__ == importlib.metadata.version("corm-batch")
