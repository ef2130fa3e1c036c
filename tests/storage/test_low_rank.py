"""Forms of low rank in the engine: what a query sees, whatever happens to a sequence."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad

from corm_batch.engine.bases import find_bases
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.ops.pages import stored_bytes
from corm_batch.storage.base import Projections, Storage
from corm_batch.storage.eigen import Eigen
from corm_batch.storage.lorc import Lorc, dealt_out
from tests.storage.bases import write_basis

WHOLE = {"key_share": 1.0, "value_share": 1.0}
HEADS = {"name": "adakv", "max_kept": 12}
POLICIES = [
    {"name": "corm", "window": 16, "recent": 4, "tau": 2.0, "reach": 1},
    {"name": "keydiff", "recent": 4, "budget": HEADS},
    {"name": "h2o", "recent": 4, "budget": {"name": "uniform", "max_kept": 12}},
]


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """Both, with shares."""
    basis = write_basis(tmp_path_factory.mktemp("basis") / "basis.safetensors")
    return {"lorc": lambda **shares: Lorc(**shares), "eigen": lambda **shares: Eigen(basis=basis, **shares)}


def start(folder, policy, storage, **fields):
    config = {"page_size": 4, "compact_every": 3, "chunk_size": 16, "storage": storage, "kv_memory": "4MiB", **fields}
    return Engine.from_pretrained(folder, policy=policy, dtype="float32", device="cpu", **config)


def answers(folder, policy, storage, **fields):
    sampling = SamplingParams(max_new_tokens=20, ignore_eos=True)
    prompts = {str(i): [(i * 31 + j * j) % 199 for j in range(12 + 15 * i)] for i in range(4)}
    requests = [Request(name, ids, sampling, return_kept_positions=True) for name, ids in prompts.items()]
    return {done.id: done for done in start(folder, policy, storage, **fields).run(requests)}


@pytest.mark.parametrize(
    ("head_dim", "share", "width"),
    [(64, 0.8, 52), (64, 0.6, 40), (64, 0.5, 32), (128, 0.6, 76), (80, 1.0, 80), (16, 0.01, 4), (2, 0.5, 2)],
)
def test_shares_are_of_the_numbers_in_fours_and_of_the_bytes(head_dim, share, width):
    form = Lorc(key_share=share, value_share=share)
    assert [column.width for column in form.columns(head_dim, torch.bfloat16)] == [width, width]
    assert stored_bytes(form, head_dim, torch.bfloat16) == 4 * width


@pytest.mark.parametrize("share", [0, 1.1, "a"])
def test_a_share_is_more_than_none_and_at_most_all(share):
    with pytest.raises(SpecError, match=r"storage\.value_share"):
        Storage.from_spec({"name": "lorc", "value_share": share})


@pytest.mark.parametrize("name", ["lorc", "eigen"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["name"])
@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_all_directions_are_the_model_s_own_numbers(forms, name, policy, prefill, tiny_llama):
    """Turned back, projected, rebuilt and turned again, through chunks, compaction and waiting in host memory."""
    plain = answers(tiny_llama, policy, "model", prefill=prefill)
    found = answers(tiny_llama, policy, forms[name](**WHOLE), prefill=prefill, kv_memory="100KiB")
    for number, one in found.items():
        assert one.token_ids == plain[number].token_ids
        assert one.kept_positions == plain[number].kept_positions
        assert one.mean_logprob == pytest.approx(plain[number].mean_logprob, abs=1e-4)


class Padded(Lorc):
    """Ranks by layer, stored as wide as the widest."""

    def directions(self, model):
        """The others are nothing."""
        found = list(super().directions(model))
        widths = [max(directions.shape[-1] for directions in each) for each in zip(*found, strict=True)]
        for each in found:
            yield tuple(pad(one, (0, width - one.shape[-1])) for one, width in zip(each, widths, strict=True))


@pytest.mark.parametrize("policy", [*POLICIES, {"name": "full"}], ids=lambda policy: policy["name"])
@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_layers_of_their_own_ranks_say_what_padded_ones_say_and_take_fewer_bytes(policy, prefill, tiny_llama):
    shares = {"key_share": 0.75, "value_share": 0.75, "progression": 0.5}
    padded = answers(tiny_llama, policy, Padded(**shares), prefill=prefill, page_size=16)
    found = answers(tiny_llama, policy, Lorc(**shares), prefill=prefill, page_size=5, kv_memory="40KiB")
    for number, one in found.items():
        assert one.token_ids == padded[number].token_ids
        assert one.kept_positions == padded[number].kept_positions
        assert one.mean_logprob == pytest.approx(padded[number].mean_logprob, abs=1e-4)


def test_ranks_fall_from_layer_to_layer_and_their_mean_is_the_share(tiny_llama):
    shares = {"key_share": 0.5, "value_share": 0.75, "progression": 0.5}
    engine = start(tiny_llama, {"name": "full"}, Lorc(**shares), page_size=16)
    widths = [(pages.key.shape[-1], pages.value.shape[-1]) for pages in engine.cache.pool.layers]
    assert widths == [(12, 16), (4, 8)]
    assert engine.cache.layout.by_layer == [16, 32]  # 12 numbers more: 124 bytes an entry, and 60
    (done,) = engine.run([Request("a", list(range(60)), SamplingParams(max_new_tokens=4, ignore_eos=True))])
    pages = 2 * (-(-63 // 16) + -(-63 // 32))
    assert done.memory.kv_bytes_final == pages * 16 * (4 * (12 + 16) + 12)
    same = find_bases(engine.model, Lorc(**shares | {"progression": 0.0}))
    assert [(basis.key.shape[-1], basis.value.shape[-1]) for basis in same] == [(8, 12), (8, 12)]


def test_ranks_that_run_one_model_decide_alike():
    """What another one's heads say counts as much as one's own."""
    weights = [tuple(torch.randn(2, 16, 32) for _ in range(2)) for _ in range(3)]
    form = Lorc(key_share=0.5, value_share=0.5, progression=0.4)

    def widths(over_ranks):
        model = Projections(3, 4, slice(0, 2), 16, weights.__getitem__, over_ranks)
        return [key.shape[-1] for key, _ in form.directions(model)]

    assert widths(lambda numbers: [0.1, 0.1, 9.0]) == [12, 8, 4]
    assert widths(lambda numbers: [9.0, 0.1, 0.1]) == [12, 4, 4]  # the first layer's errors alone grow


@given(
    share=st.floats(0.05, 1.0),
    spread=st.floats(0.0, 0.99),
    places=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9),
)
def test_shares_that_are_dealt_out_keep_their_mean(share, spread, places):
    shares = dealt_out(share, spread, places)
    assert sum(shares) / len(shares) == pytest.approx(share, abs=1e-6)
    assert all(0 <= one <= 1 for one in shares)
    for one, other in pairwise(sorted(zip(places, shares, strict=True))):
        assert other[1] - one[1] == pytest.approx(min(spread * (other[0] - one[0]), other[1] - one[1]), abs=1e-6)
        assert other[1] >= one[1]


@pytest.mark.parametrize("name", ["lorc", "eigen"])
@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_what_is_read_is_what_the_directions_leave_of_it(forms, name, prefill, tiny_llama):
    held, shares = {}, {"key_share": 0.5, "value_share": 0.75}
    for storage in (forms[name](**WHOLE), forms[name](**shares)):
        engine = start(tiny_llama, {"name": "full"}, storage, prefill=prefill)
        engine.add(Request("a", [(j * j) % 199 for j in range(45)], SamplingParams(max_new_tokens=9, ignore_eos=True)))
        for _ in range(3):
            engine.step()
        held[storage] = engine.cache.read(0, 0)
    (whole, narrow), basis = held.values(), engine.cache.bases[0]
    assert engine.cache.pages(0).key.shape[-1] == 8
    assert engine.cache.pages(0).value.shape[-1] == 12
    inside = whole.position[:, :, None] <= 45  # of the prompt: answers may differ
    expected = basis.rebuild(*basis.project(whole.key, whole.value, whole.position), whole.position)
    for got, wanted, before in zip((narrow.key, narrow.value), expected, (whole.key, whole.value), strict=True):
        torch.testing.assert_close(got * inside, wanted * inside, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(wanted * inside, before * inside, atol=1e-2)


def test_lorc_s_directions_are_the_singular_vectors_of_what_makes_keys_and_values(tiny_llama):
    engine = start(tiny_llama, {"name": "full"}, Lorc(key_share=0.5, value_share=0.75))
    layer = engine.model.module.model.layers[1]
    for basis, linear in ((engine.cache.bases[1].key, "k_proj"), (engine.cache.bases[1].value, "v_proj")):
        weight = getattr(layer.self_attn, linear).weight.detach() * layer.input_layernorm.weight.detach()
        for head, directions in enumerate(basis):
            vectors, _, _ = torch.linalg.svd(weight[head * 16 : head * 16 + 16])
            first = vectors[:, : directions.shape[1]]
            torch.testing.assert_close(directions @ directions.T, first @ first.T, rtol=1e-4, atol=1e-5)


def test_other_forms_have_none(tiny_llama):
    engine = start(tiny_llama, {"name": "full"}, "int8")
    assert find_bases(engine.model, engine.config.storage) is None
    assert engine.cache.bases == [None, None]
