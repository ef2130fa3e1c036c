"""A file imports only from its own layer or from layers below it; heavy libraries stay in the layer that owns them."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.source_files import FILES, INFRA, PACKAGE, ROOT, nodes_of

LAYERS = [
    "harmless",
    "errors",
    "exit_codes",
    "file_hash",
    "named_once",
    "plugin_file",
    "registry",
    "grammar",
    "ops",
    "storage",
    "kv",
    "budgets",
    "policies",
    "propagation",
    "engine",
    "weights",
    "audit",
    "bench",
    "data",
    "tasks",
    "text",
    "cluster_section",
    "spec",
    "output",
    "evaluation",
    "report",
    "cluster",
    "pipeline",
    "calibration",
    "schedule",
    "harness",
    "cli",
]
# library: where it may be imported, as path prefixes inside the package
OWNERS = {
    "llguidance": ["grammar/"],
    "ray": ["cluster/", "pipeline/"],
    "grpc": ["cluster/"],
    "triton": ["ops/kernels/"],
    "peft": ["engine/checkpoint.py"],
    "transformers": ["engine/", "bench/", "text/tokenize.py"],
    "tokenizers": ["text/tokenize.py"],
    "pyarrow.fs": ["data/"],
    "fsspec": ["data/"],
    "s3fs": ["data/"],
    "lm_eval": ["harness.py"],
    "pypdf": ["data/readers/"],
    "docx": ["data/readers/"],
    "bs4": ["data/readers/"],
    "markdownify": ["data/readers/"],
    "typer": ["cli/"],
    "rich": ["cli/"],
}


def imports(path):
    """Every imported module, `from a import b` as both `a` and `a.b`; the package's own imports are all absolute."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def files_imported(path):
    """Files of the tree that `path` imports when it runs: what only type checkers read is left out."""
    guarded, found = set(), set()
    for node in nodes_of(path):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            guarded.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            found.update(file_of(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(file_of(f"{node.module}.{alias.name}") or file_of(node.module) for alias in node.names)
    return found - {None, PACKAGE / "__init__.py"}  # which imports when it is asked for a name


@cache
def file_of(module):
    """The file of the tree that is this module; None for every other."""
    place = ROOT / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def is_inside(module, package):
    return module == package or module.startswith(package + ".")


def layer(relative):
    return LAYERS.index(relative.with_suffix("").parts[0])


def test_imports_point_down():
    wrong = []
    for path in FILES:
        relative = path.relative_to(PACKAGE)
        if relative == Path("__init__.py"):
            continue  # the public names come from every layer
        for module in imports(path):
            if module.startswith("corm_batch."):
                target = module.split(".")[1]
                if target not in LAYERS:
                    wrong.append(f"{relative} imports {module}: take it from the module that defines it")
                elif LAYERS.index(target) > layer(relative):
                    wrong.append(f"{relative} imports {module}, which is above it")
    assert wrong == []


def test_heavy_libraries_stay_where_they_belong():
    wrong = []
    for path in FILES:
        relative = path.relative_to(PACKAGE).as_posix()
        for module in imports(path):
            for library, owners in OWNERS.items():
                if is_inside(module, library) and not relative.startswith(tuple(owners)):
                    wrong.append(f"{relative} imports {module}; only {owners} may")
    assert wrong == []


def test_every_library_is_a_declared_dependency():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [extra for name, extra in project["optional-dependencies"].items() if name != "test"]
    declared = {
        re.match(r"[\w-]+", dependency)[0].lower()
        for dependencies in (project["dependencies"], *extras)
        for dependency in dependencies
    }
    names = {
        "yaml": "pyyaml",
        "grpc": "grpcio",
        "pydantic_core": "pydantic-core",
        "triton": "torch",
        "lm_eval": "lm-eval",
        "bs4": "beautifulsoup4",
        "docx": "python-docx",
        "huggingface_hub": "huggingface-hub",
    }  # torch brings Triton where it supports the GPU
    for path in FILES:
        for module in imports(path):
            library = module.partition(".")[0]
            if library != "corm_batch" and library not in sys.stdlib_module_names:
                assert names.get(library, library) in declared, f"{path.relative_to(PACKAGE)} imports {library}"


def test_every_folder_is_a_known_layer():
    found = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES} - {"__init__"}
    assert found == set(LAYERS)


def test_no_file_imports_itself_in_the_end():
    graph = {path: files_imported(path) for path in (*FILES, *INFRA)}
    assert sum(map(len, graph.values())) > 500
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_the_package_knows_nothing_of_infra_nor_either_of_the_tests():
    for path in (*FILES, *INFRA):
        above = ("tests", "infra") if path.is_relative_to(PACKAGE) else ("tests",)
        found = [module for module in imports(path) if module.startswith(above)]
        assert not found, path.relative_to(ROOT)


def test_folders_of_infra_do_without_each_other():
    for path in INFRA:
        own = path.relative_to(ROOT).parts[1]
        for imported in files_imported(path):
            if imported.is_relative_to(ROOT / "infra"):
                assert imported.relative_to(ROOT).parts[1] == own, f"{path.relative_to(ROOT)} imports {imported}"


def test_command_line_starts_without_heavy_libraries():
    code = "import sys, corm_batch.cli; print(*{'torch', 'ray', 'transformers', 'pyarrow'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ""
