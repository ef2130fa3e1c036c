"""corm-batch policies."""

import json

from corm_batch.budgets.base import Budget
from corm_batch.policies.base import KVPolicy
from corm_batch.propagation.base import Propagation
from corm_batch.storage.base import Storage
from corm_batch.weights.base import Weights


def test_every_policy_with_its_fields(corm_batch):
    result = corm_batch("policies")
    assert result.code == 0
    for name, policy in KVPolicy.registered().items():
        assert f"{name}: {policy.summary()}" in result.out
    assert result.out.count(" Judges without the question.") == len(KVPolicy.registered()) - 3
    for name, budget in Budget.registered().items():
        assert f"budget {name}: {budget.summary()}" in result.out
    for name, propagation in Propagation.registered().items():
        assert f"propagation {name}: {propagation.summary()}" in result.out
    for name, storage in Storage.registered().items():
        assert f"storage {name}: {storage.summary()}" in result.out
    for name, weights in Weights.registered().items():
        assert f"weights {name}: {weights.summary()} Needs {weights.needs}." in result.out
    assert result.out.count(" Needs a GPU of compute capability 8.9 or newer") == 1
    assert "{name: uniform, max_kept: 1024}" in result.out
    window = next(line for line in result.out.splitlines() if line.startswith("window"))
    assert "128" in window
    assert "step | cache" in result.out


def test_json(corm_batch):
    printed = json.loads(corm_batch("policies", "--json").out)
    described = {plugin["name"]: plugin for plugin in printed}
    assert [plugin["name"] for plugin in printed] == [
        *KVPolicy.registered(),
        *Budget.registered(),
        *Propagation.registered(),
        *Storage.registered(),
        *Weights.registered(),
    ]
    assert [plugin["kind"] for plugin in printed].count("budget") == len(Budget.registered())
    tau = next(field for field in described["corm"]["fields"] if field["name"] == "tau")
    assert (tau["type"], tau["default"]) == ("number", "36.0")
    assert described["full"]["fields"] == []
    assert [described[name].get("looks_for_question") for name in ("corm", "kvzip", "uniform")] == [True, False, None]
    assert [described[name].get("needs_fp8") for name in ("fp8", "int4", "full")] == [True, False, None]
