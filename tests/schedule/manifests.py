"""Rendered manifests, read back and held against schemas/ (see the README there)."""

from pathlib import Path

import yaml
from jsonschema import Draft7Validator

FOLDER = Path(__file__).parent / "schemas"
DEFINITIONS = {
    name: definition
    for file in ("kubernetes.yaml", "kuberay.yaml")
    for name, definition in yaml.safe_load((FOLDER / file).read_text())["definitions"].items()
}


def problems(manifest):
    """What is wrong with one manifest by the schema of its kind."""
    schema = {"$ref": f"#/definitions/{manifest['kind']}", "definitions": DEFINITIONS}
    Draft7Validator.check_schema(schema)
    return [f"{list(error.path)}: {error.message}" for error in Draft7Validator(schema).iter_errors(manifest)]


def validated(text):
    """The manifests of a YAML text by kind, all of them right."""
    manifests = list(yaml.safe_load_all(text))
    assert [problems(manifest) for manifest in manifests] == [[]] * len(manifests)
    return {manifest["kind"]: manifest for manifest in manifests}
