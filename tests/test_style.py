"""The house rules that a script can check; a test looks at all files and names every one that breaks its rule."""

import ast
import re

from tests.source_files import FILES, INFRA, PACKAGE, ROOT, nodes_of, text_of, tree_of

MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60


def nodes(path, *kinds):
    return [node for node in nodes_of(path) if isinstance(node, kinds)]


def names(expression):
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def broken(files, faults_of):
    """What is wrong, by the file it is wrong in."""
    found = {path.relative_to(ROOT).as_posix(): list(faults_of(path)) for path in files}
    return {path: faults for path, faults in found.items() if faults}


def test_modules_have_a_docstring():
    assert len(FILES) > 250
    assert not [path for path in (*FILES, *INFRA) if not ast.get_docstring(tree_of(path))]


def test_sizes():
    def too_long(path):
        if (lines := len(text_of(path).splitlines())) > MAX_FILE_LINES:
            yield f"{lines} lines"
        for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
            if (lines := function.end_lineno - function.lineno + 1) > MAX_FUNCTION_LINES:
                yield f"{function.name} has {lines} lines"

    assert broken([*FILES, *INFRA], too_long) == {}


def test_no_leftovers():
    def leftovers(path):
        yield from re.findall(r"\b(TODO|FIXME|XXX)\b", text_of(path))
        yield from (
            f"print, {call.lineno}" for call in nodes(path, ast.Call) if getattr(call.func, "id", "") == "print"
        )
        yield from (f"except, {one.lineno}" for one in nodes(path, ast.ExceptHandler) if one.type is None)

    assert broken(FILES, leftovers) == {}


def test_no_class_has_a_short_name_beside_its_own():
    def short(path):
        aliases = (alias for imported in nodes(path, ast.ImportFrom) for alias in imported.names)
        return [one.name for one in aliases if one.asname and len(one.asname) < len(one.name) and one.name[0].isupper()]

    assert broken(FILES, short) == {}


def test_nobody_asks_which_policy_it_is():
    source = "\n".join(text_of(other) for other in (PACKAGE / "policies").glob("*.py"))
    policies = set(re.findall(r"^class (\w+)\(", source, flags=re.MULTILINE))
    assert policies

    def asks(path):
        for call in nodes(path, ast.Call):
            if getattr(call.func, "id", "") in ("isinstance", "issubclass") and names(call.args[1]) & policies:
                yield f"line {call.lineno}"

    assert broken([path for path in FILES if path.relative_to(PACKAGE).parts[0] != "policies"], asks) == {}
