"""Forms of low rank in the engine: what a query sees, whatever happens to a sequence."""

from __future__ import annotations

import pytest
import torch

from corm_batch.engine.bases import find_bases
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.ops.pages import stored_bytes
from corm_batch.storage.base import Storage
from corm_batch.storage.eigen import Eigen
from corm_batch.storage.lorc import Lorc
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
