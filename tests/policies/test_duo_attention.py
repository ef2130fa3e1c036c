"""DuoAttention: which heads keep everything, and what the others keep."""

from __future__ import annotations

import pytest

from corm_batch.errors import SpecError
from corm_batch.policies.duo_attention import DuoAttention
from corm_batch.policies.model import Model
from tests.engine.test_corm_oracle import random_prompts
from tests.engine.test_published_policies import answer

TABLE = [[0.3, 1.0, 0.1, 0.2], [0.0, 0.2, 0.4, 0.9]]  # of query heads: the highest of a group counts
FULL = {(0, 0), (1, 1)}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_retrieval_heads_keep_everything_and_the_others_sinks_and_the_newest(prefill, device, tiny_llama):
    policy = {"name": "duo_attention", "scores": TABLE, "sinks": 5, "recent": 12}
    config = {"prefill": prefill, "chunk_size": 16, "compact_every": 1, "device": device}
    done = answer(tiny_llama, random_prompts((70, 3, 24), seed=2), 6, policy, **config)
    for one, length in zip(done, (70, 3, 24), strict=True):
        fed = length + 5
        for layer, heads in enumerate(one.kept_positions):
            for head, kept in enumerate(heads):
                assert list(kept) == [
                    i for i in range(fed) if (layer, head) in FULL or i < 5 or i > fed - 12
                ]  # what the next query may see beside itself
    pages = sum(-(-len(head) // 4) for layer in done[0].kept_positions for head in layer)
    assert done[0].memory.kv_bytes_final == pages * 4 * (2 * 16 * 4 + 12)


@pytest.mark.parametrize(("share", "full"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_a_share_of_all_heads_of_the_model_keeps_everything(share, full):
    policy = DuoAttention(scores=TABLE, full_share=share)
    whole = policy.for_model(Model(2, 2))
    assert sum(map(sum, whole._full)) == full
    parts = [policy.for_model(Model(2, 2, slice(rank, rank + 1)))._full for rank in range(2)]
    assert [left + right for left, right in zip(*parts, strict=True)] == list(whole._full)


def test_a_table_of_another_model_is_refused(tiny_llama):
    for scores, message in (([[1.0, 0.0]], "1 layers, the model has 2"), ([[1.0] * 3] * 2, "3 heads in a layer")):
        with pytest.raises(SpecError, match=f"policy.scores: {message}"):
            answer(tiny_llama, [], 1, {"name": "duo_attention", "scores": scores})
