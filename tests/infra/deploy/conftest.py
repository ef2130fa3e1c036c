import json
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "infra/deploy"
SCHEMAS = Path(__file__).parent / "schemas"


def load(path):
    """The one document of a YAML or JSON file in infra/deploy/."""
    text = (DEPLOY / path).read_text(encoding="utf-8")
    return json.loads(text) if path.endswith(".json") else yaml.safe_load(text)


def problems(instance, schema, definition=None):
    """What a schema of this folder, or one definition of it, has against `instance`; one line each."""
    content = yaml.safe_load((SCHEMAS / schema).read_text(encoding="utf-8"))
    if definition is not None:
        content = {**content, "$ref": f"#/definitions/{definition}"}
    jsonschema.Draft7Validator.check_schema(content)
    found = jsonschema.Draft7Validator(content).iter_errors(instance)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@pytest.fixture(scope="session")
def rules():
    """Every alerting rule."""
    return [rule for group in load("prometheus/rules.yaml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def dashboard():
    return load("grafana/corm-batch.json")
