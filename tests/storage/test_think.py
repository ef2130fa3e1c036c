"""Keys without the channels that queries need least: which these are, what is stored, and what a query sees then."""

from __future__ import annotations

import pytest
import torch

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.ops.pages import stored_bytes
from corm_batch.storage.base import Storage
from corm_batch.storage.think import Think

THINK = Think()


def by_hand(form, query, key, keep):
    """The paper's criterion, head by head: the norm of each channel's part of the scores."""
    group, chosen = len(query) // len(key), []
    for head, keys in enumerate(key):
        window = query[head * group : (head + 1) * group, -form.window :].double()
        parts = [
            sum(float(torch.outer(one[:, d], keys[keep[head], d].double()).norm() ** 2) for one in window)
            for d in range(key.shape[-1])
        ]
        width = form.columns(key.shape[-1], key.dtype)[0].width
        chosen.append(sorted(sorted(range(len(parts)), key=lambda d: -parts[d])[:width]))
    return chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("share", "window", "num_tokens"), [(0.4, 8, 40), (0.25, 32, 5), (0.9, 1, 9)])
def test_channels_stay_that_the_newest_queries_score_the_kept_keys_by(dtype, share, window, num_tokens):
    torch.manual_seed(0)
    form = Think(share=share, window=window)
    query, key = (torch.randn(heads, num_tokens, 16).to(dtype) for heads in (6, 2))
    keep = torch.rand(2, num_tokens) < 0.6
    keep[:, 0] = True
    assert form.channels(query, key, keep).tolist() == by_hand(form, query, key, keep)


def test_where_nothing_stays_queries_alone_decide():
    query, key = torch.randn(2, 9, 16), torch.randn(1, 9, 16)
    found = THINK.channels(query, key, torch.zeros(1, 9, dtype=torch.bool))
    needed = query.square().sum(dim=(0, 1))
    assert found.tolist() == [needed.topk(10).indices.sort().values.tolist()]


@pytest.mark.parametrize(("head_dim", "width"), [(64, 38), (80, 48), (96, 58), (128, 76), (256, 154)])
def test_two_fifths_of_the_keys_are_a_fifth_of_the_bytes(head_dim, width):
    assert [column.width for column in THINK.columns(head_dim, torch.bfloat16)] == [width, head_dim]
    full = 4 * head_dim
    assert stored_bytes(THINK, head_dim, torch.bfloat16) == full - 2 * (head_dim - width)
    assert 0.19 < 1 - stored_bytes(THINK, head_dim, torch.bfloat16) / full < 0.21


@pytest.mark.parametrize("share", [0, 1, "a"])
def test_a_share_is_between_none_and_all(share):
    with pytest.raises(SpecError, match=r"storage\.share"):
        Storage.from_spec({"name": "think", "share": share})


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
@pytest.mark.parametrize(
    "policy",
    [{"name": "full"}, {"name": "snapkv", "window": 4, "recent": 4, "budget": {"name": "adakv", "max_kept": 20}}],
)
def test_every_list_keeps_the_channels_chosen_first_and_zeros_are_seen_in_the_others(policy, prefill, tiny_llama):
    """Beside the same run whose form keeps all channels: the prompt's, or the first chunk's, own queries choose."""
    found = {}
    for share in (0.01, 0.4):
        storage = {"name": "think", "share": share, "window": 8}
        engine = Engine.from_pretrained(
            tiny_llama, policy=policy, dtype="float32", device="cpu", kv_memory="4MiB", page_size=4, storage=storage,
            prefill=prefill, chunk_size=16,
        )  # fmt: skip
        engine.add(Request("a", [(j * j) % 199 for j in range(45)], SamplingParams(max_new_tokens=9, ignore_eos=True)))
        for _ in range(1 if prefill == "exact" else 3):
            engine.step()
        cache = engine.cache
        found[share] = [(cache.read(0, layer), cache.channels.of(layer, slice(1))[0]) for layer in range(2)]
    for (whole, everything), (pruned, channels) in zip(found[0.01], found[0.4], strict=True):
        assert everything.shape[-1] == whole.key.shape[-1] == pruned.key.shape[-1] == 16
        assert channels.shape[-1] == 10
        seen = torch.zeros(channels.shape[0], 16, dtype=torch.bool).scatter_(-1, channels.long(), True)
        assert not pruned.key[~seen[:, None].expand(pruned.key.shape)].any()
        assert pruned.key.any()
    first_whole, first_pruned = found[0.01][0][0], found[0.4][0][0]
    if policy["name"] == "full":  # the first layer's keys are the same in both
        seen = torch.zeros(2, 16, dtype=torch.bool).scatter_(-1, found[0.4][0][1].long(), True)
        torch.testing.assert_close(first_pruned.key, first_whole.key * seen[:, None])
