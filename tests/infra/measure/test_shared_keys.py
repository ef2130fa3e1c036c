"""What a member's decode step is measured on is what the definition of its attention computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from corm_batch.bench.ceilings import Ceilings
from infra.measure.kernels import entry_bytes, figures
from infra.measure.shared_keys import FORMS, calls

RESULT = Path(__file__).parents[3] / "infra/measure/results/h200-shared_keys.json"


@pytest.mark.parametrize("storage", FORMS)
def test_a_member_reads_its_own_list_beside_its_owner_s(storage):
    found = calls(S=2, K=2, G=2, N=60, storage=storage, recent=16)
    assert found["member"].amount - found["plain"].amount == 2 * 2 * 16 * entry_bytes(2, storage)
    for call in found.values():
        assert torch.isfinite(call.run().float()).all()


def test_the_result_in_the_repository_adds_up():
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    ceilings = Ceilings.model_validate(record["ceilings"])
    assert {(row["kernel"], row["shape"]["storage"]) for row in record["rows"]} == {
        (name, storage) for name in ("plain", "member") for storage in FORMS
    }
    for row in record["rows"]:
        counted = {name: value for name, value in row.items() if name not in ("kernel", "shape")}
        assert figures(row["bytes"], "bytes", row["ms"], ceilings) == pytest.approx(counted, rel=0.01, abs=0.002)
