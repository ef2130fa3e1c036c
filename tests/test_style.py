"""The house rules that a script can check."""

import ast
import re

from tests.source_files import FILES, INFRA, PACKAGE, ROOT, nodes_of, text_of, tree_of

MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60
OF_INFRA_TOO = ("test_module_has_a_docstring", "test_sizes")


def pytest_generate_tests(metafunc):
    files = [*FILES, *INFRA] if metafunc.function.__name__ in OF_INFRA_TOO else FILES
    metafunc.parametrize("path", files, ids=lambda path: path.relative_to(ROOT).as_posix())


def nodes(path, *kinds):
    return [node for node in nodes_of(path) if isinstance(node, kinds)]


def names(expression):
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def test_module_has_a_docstring(path):
    assert ast.get_docstring(tree_of(path))


def test_sizes(path):
    assert len(text_of(path).splitlines()) <= MAX_FILE_LINES
    for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
        lines = function.end_lineno - function.lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{function.name} has {lines} lines"


def test_no_leftovers(path):
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text_of(path))
    assert not [call.lineno for call in nodes(path, ast.Call) if getattr(call.func, "id", "") == "print"]
    assert not [handler.lineno for handler in nodes(path, ast.ExceptHandler) if handler.type is None]


def test_no_class_has_a_short_name_beside_its_own(path):
    for imported in nodes(path, ast.ImportFrom):
        for alias in imported.names:
            assert not alias.asname or len(alias.asname) >= len(alias.name) or not alias.name[0].isupper(), alias.name


def test_nobody_asks_which_policy_it_is(path):
    if path.relative_to(PACKAGE).parts[0] == "policies":
        return
    source = "\n".join(text_of(other) for other in (PACKAGE / "policies").glob("*.py"))
    policies = set(re.findall(r"^class (\w+)\(", source, flags=re.MULTILINE))
    for call in nodes(path, ast.Call):
        if getattr(call.func, "id", "") in ("isinstance", "issubclass"):
            assert not names(call.args[1]) & policies, f"line {call.lineno}"
