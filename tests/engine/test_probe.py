"""The second line of defence."""

from __future__ import annotations

import pytest

from corm_batch.engine import probe
from corm_batch.engine.open import Engine
from corm_batch.errors import UnsupportedModelError
from tests.conftest import llama_config, save_random_model


def test_other_logits_than_the_models_own_are_refused(tmp_path, monkeypatch):
    """A feature nobody named still shows in the logits."""
    folder = save_random_model(llama_config(), tmp_path)
    honest = probe.causal_attention
    monkeypatch.setattr(probe, "causal_attention", lambda q, k, v, scale, *rest: honest(q, k, v, scale * 1.1, *rest))
    with pytest.raises(UnsupportedModelError, match="relative distance"):
        Engine.from_pretrained(folder, policy={"name": "full"}, dtype="float32", device="cpu")
