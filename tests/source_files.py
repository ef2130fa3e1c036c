"""What tests of the house rules read: the files of the package and of infra, each parsed once a process."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "corm_batch"
FILES = sorted(PACKAGE.rglob("*.py"))
INFRA = sorted((ROOT / "infra").rglob("*.py"))


@cache
def text_of(path):
    return path.read_text(encoding="utf-8")


@cache
def tree_of(path):
    """Nobody changes it."""
    return ast.parse(text_of(path))


@cache
def nodes_of(path):
    return list(ast.walk(tree_of(path)))
