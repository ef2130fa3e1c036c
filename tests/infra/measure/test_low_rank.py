"""What a form of low rank loses, by the definition, and one command that writes it."""

from __future__ import annotations

import json

import pytest
import torch

from corm_batch.engine.bases import RebuiltBatch, find_bases
from corm_batch.engine.loader import load_model
from corm_batch.engine.text_batch import TextBatch
from corm_batch.storage.lorc import Lorc
from infra.measure.low_rank import main
from infra.measure.texts import nats

TEXTS = [torch.randint(0, 199, (48,), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


@torch.inference_mode()
def test_all_directions_lose_nothing_and_few_lose_more(tiny_llama):
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    plain = nats(model, map(TextBatch, TEXTS))
    forms = [Lorc(key_share=share, value_share=share) for share in (1.0, 0.3)]
    whole, few = (nats(model, [RebuiltBatch(ids, find_bases(model, form)) for ids in TEXTS]) for form in forms)
    torch.testing.assert_close(whole, plain, rtol=0, atol=1e-4)
    assert ((few - plain).abs() > 1e-3).all()


def test_one_command_writes_what_is_lost_by_form(tiny_job, tmp_path, capsys):
    job = tiny_job({boat: f"The {boat} boat lay at the river that year. " * 60 for boat in "abcd"})
    record, forms = (
        tmp_path / "record.json",
        (
            "{name: lorc, key_share: 1, value_share: 1}",
            "{name: lorc, key_share: 0.5}",
            "{name: lorc, key_share: 0.5, value_share: 0.75, progression: 0.5}",
        ),
    )
    asked = [word for form in forms for word in ("--storage", form)]
    main([job, "--text", str(tmp_path / "documents.jsonl"), *asked, "--texts", "3", "--tokens", "40", "--device", "cpu",
          "--output", str(record)])  # fmt: skip
    whole, half, by_layer = json.loads(record.read_text())["rows"]
    assert (whole["bytes"], whole["nats"]) == (1.0, pytest.approx(0.0, abs=1e-3))
    assert (whole["kl"], whole["ranks"]) == (pytest.approx(0.0, abs=1e-3), [16, 16])
    assert half["storage"] == {"name": "lorc", "key_share": 0.5, "value_share": 0.9, "progression": 0.0}
    assert (half["bytes"], half["ranks"]) == (0.75, [8, 16])
    assert half["half"] > 0
    assert half["kl"] > half["kl_half"] > 0
    assert (by_layer["bytes"], by_layer["ranks"]) == (0.625, [[12, 16], [4, 8]])


def test_a_form_that_stores_all_directions_is_refused(tiny_job, tmp_path):
    job = tiny_job({"a": "The boat lay at the river that year. " * 20})
    with pytest.raises(SystemExit, match=r"--storage \{name: int8\}: expected a form of low rank"):
        main([job, "--text", str(tmp_path / "documents.jsonl"), "--storage", "{name: int8}", "--texts", "1",
              "--tokens", "20", "--device", "cpu", "--output", str(tmp_path / "record.json")])  # fmt: skip
