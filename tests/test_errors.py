"""Errors are one tree: every one below the root, documented, in the drawing; raised as leaves, caught by branch."""

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import corm_batch
from corm_batch import errors

PACKAGE = Path(errors.__file__).parent
ROOT = errors.CormBatchError
TREE = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, ROOT)}
CATCH_ALL = {
    "bench/bench.py": "whatever a whole job has to say: the other rows are still to be measured",
    "cli/__init__.py": "the end of every command",
    "pipeline/replica.py": "whatever a replica has to say",
}
"""Where the root itself is caught."""
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "errors.py"]


def name_of(expression):
    """The last part of a dotted name, of what is called by one, or nothing."""
    expression = expression.func if isinstance(expression, ast.Call) else expression
    return getattr(expression, "attr", getattr(expression, "id", ""))


def uses_of_root(tree):
    """Lines that make the root, and lines that catch it."""
    made, caught = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc and name_of(node.exc) == ROOT.__name__:
            made.append(node.lineno)
        if isinstance(node, ast.Call) and name_of(node) == ROOT.__name__:
            made.append(node.lineno)
        if isinstance(node, ast.ExceptHandler) and node.type:
            asked = [node.type]
        elif isinstance(node, ast.Call) and name_of(node) in ("isinstance", "issubclass", "suppress"):
            asked = node.args
        else:
            continue
        names = {name_of(part) for each in asked for part in ast.walk(each) if isinstance(part, ast.expr)}
        caught += [node.lineno] if ROOT.__name__ in names else []
    return made, caught


def test_how_the_root_is_used_is_seen():
    text = "try: pass\nexcept (OSError, errors.CormBatchError): raise CormBatchError('x')\nreturn CormBatchError"
    assert uses_of_root(ast.parse(text)) == ([2, 2], [2])
    assert uses_of_root(ast.parse("suppress(CormBatchError)\nisinstance(e, CormBatchError | OSError)")) == ([], [1, 2])


def test_the_root_is_raised_nowhere_and_caught_where_all_ends():
    for path in FILES:
        made, caught = uses_of_root(ast.parse(path.read_text(encoding="utf-8")))
        assert not made, f"{path} raises the bare root in lines {made}: take a branch"
        assert bool(caught) == (path.relative_to(PACKAGE).as_posix() in CATCH_ALL), f"{path}: lines {caught}"


def test_no_error_is_made_beside_the_tree():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        caught = {name_of(node.type) for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type}
        for kind in ast.walk(tree):
            if isinstance(kind, ast.ClassDef):
                bases = [name_of(base) for base in kind.bases]
                if bases == ["BaseException"] and kind.name.startswith("_") and kind.name in caught:
                    continue  # no error: a way out of other people's code, which ends in the file it begins in
                beside = [base for base in bases if base.endswith(("Error", "Exception")) or base in TREE]
                assert not beside, f"{path}: {kind.name} belongs into errors.py"


@pytest.mark.parametrize("kind", TREE.values(), ids=TREE)
def test_each_is_documented_and_drawn_below_its_branch(kind):
    assert kind.__dict__["__doc__"]
    drawn = {}  # name to the names above it, by how far to the right they stand
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^([│├└─ ]*)(\w+)", line):
            depth = len(found[1]) // 3
            above = [name for name, other in drawn.items() if other == depth - 1]
            drawn[found[2]] = depth
            if found[2] == kind.__name__:
                assert not above or above[-1] == kind.__bases__[0].__name__
    assert kind.__name__ in drawn


def test_branches_are_public_names():
    for kind in TREE.values():
        if ROOT in (kind, *kind.__bases__):
            assert getattr(corm_batch, kind.__name__) is kind
            assert kind.__name__ in corm_batch.__all__


MADE = [
    errors.FileError("/in/a.parquet", "cut"),
    errors.ColumnsError("/in/b.parquet", "no id"),
    errors.CapacityError("too large", bytes_needed=9, bytes_available=8),
    errors.AnswerError("no number", output="x", columns={"a": 1}, finish_reason="length"),
    errors.CutOffError("no end", begun="{"),
    errors.OutOfPages(3),
]


@pytest.mark.parametrize("kind", TREE.values(), ids=TREE)
def test_each_comes_out_of_another_process_as_it_went_in(kind):
    error = next((error for error in MADE if type(error) is kind), None) or kind("why")
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there), vars(there)) == (kind, str(error), vars(error))
