"""What every form of storage has to hold: alone, and with the engine around it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.ops.form import Stored
from corm_batch.ops.pages import entry_columns
from corm_batch.storage.base import Storage
from corm_batch.storage.model import Model
from tests.storage.bases import write_basis
from tests.storage.outliers import attention_off

NEEDS = {"eigen": {"basis": write_basis(Path(tempfile.mkdtemp()) / "tiny.safetensors")}}
"""Fields without which a form cannot be made, for the tiny Llama."""
FORMS = [Storage.from_spec({"name": name, **NEEDS.get(name, {})}) for name in Storage.registered()]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
HEADS = {"name": "adakv", "max_kept": 12}


def some(*lead, width=24, seed=0):
    """Keys or values of any magnitude, one of them all zeros."""
    draw = torch.Generator().manual_seed(seed)
    magnitude = torch.exp2(torch.randint(-12, 12, (*lead, 1), generator=draw).float())
    found = torch.randn(*lead, width, generator=draw) * magnitude
    found.view(-1, width)[0] = 0
    return found


def as_lists_have_them(form, *lead):
    """Keys and values 24 wide, or as much of them as the form is given."""
    widths = (column.width for column in form.columns(24, torch.float32))
    key, value = widths if form.low_rank else (next(widths) if form.prunes_keys else 24, 24)
    return some(*lead, width=key), some(*lead, width=value, seed=1)


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_contract(form, dtype):
    key, value = (part.to(dtype) for part in as_lists_have_them(form, 3, 50))
    stored = form.encode(key, value)
    for column, tensor in zip(form.columns(24, dtype), (stored.key, stored.value), strict=True):
        assert (tensor.dtype, tensor.shape) == (column.dtype, (3, 50, column.width))
    for column, tensor in zip(form.scales, stored.scales, strict=True):
        assert (column.width, tensor.dtype, tensor.shape) == (None, column.dtype, (3, 50))
    names = [column.name for column in entry_columns(form, 24, dtype)]
    assert len(set(names)) == len(names)
    for got, number in zip(form.decode(stored), (key, value), strict=True):
        largest = number.float().abs().amax(dim=-1, keepdim=True)
        assert ((got.float() - number.float()).abs() <= largest / 13).all()
    assert Storage.from_spec(form.to_spec()) == form
    assert type(form).summary()


def as_bytes(stored):
    tensors = stored.key, stored.value, *(scale[..., None] for scale in stored.scales)
    return [tensor.contiguous().view(torch.uint8) for tensor in tensors]


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_stored_again_is_stored_as_it_was_and_by_itself(form, dtype):
    key, value = (part.to(dtype) for part in as_lists_have_them(form, 200))
    stored = form.encode(key, value)
    again = form.encode(*(number.to(dtype) for number in form.decode(stored)))
    for one, other in zip(as_bytes(stored), as_bytes(again), strict=True):
        assert torch.equal(one, other)
    for n in (0, 7, 199):
        for one, other in zip(as_bytes(form.encode(key[n : n + 1], value[n : n + 1])), as_bytes(stored), strict=True):
            assert torch.equal(one[0], other[n])
    assert form.encode(key[:0], value[:0]).key.shape[0] == 0


@pytest.mark.parametrize(("name", "none", "most"), [("fp8", 0.05, 0.15), ("int8", 0.02, 0.08), ("int4", 0.2, 0.3)])
def test_attention_is_little_off_beside_the_largest_bias_that_a_form_bears(name, none, most):
    form = Storage.from_spec({"name": name})

    def rounded(key, value):
        return form.decode(form.encode(key, value))

    assert attention_off(rounded, 0) < none
    assert attention_off(rounded, min(form.most_bias, 700)) < most
    assert form.most_bias > 700 or attention_off(rounded, 8 * form.most_bias) > 0.4


def test_a_name_alone_selects_those_that_need_no_field():
    assert set(Storage.by_name_alone()) == set(Storage.registered()) - set(NEEDS)


def test_a_form_is_given_by_name_or_mapping():
    assert EngineConfig.parse({"storage": "fp8"}) == EngineConfig.parse({"storage": {"name": "fp8"}})
    assert EngineConfig().storage is EngineConfig.parse({"storage": None}).storage is None
    assert EngineConfig().storing(Model()).form == Model()
    assert EngineConfig.parse({"storage": "fp8"}).storing(Model()).form.name == "fp8"
    with pytest.raises(ValueError, match="not named yet"):
        _ = EngineConfig().form
    assert EngineConfig.parse({"storage": "fp8"}).model_dump(mode="json")["storage"] == {"name": "fp8"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fp9", r"engine\.storage\.name: no storage is called 'fp9'; there are:\n  eigen: (.*\n)+  model: "),
        ({"name": "fp8", "bits": 8}, r"engine\.storage\.bits: unknown key; known here: none$"),
        (8, r"engine\.storage: expected a name, or a mapping with one, got 8"),
    ],
)
def test_a_wrong_form_is_told_by_its_field(given, message):
    with pytest.raises(SpecError, match=message):
        EngineConfig.parse({"storage": given})


class Rounded(Model):
    """What another form makes of entries, kept as plain numbers."""

    form: Storage

    def encode(self, key, value):
        return Stored(*(number.to(key.dtype) for number in self.form.decode(self.form.encode(key, value))))


def answers(folder, policy, storage, **fields):
    config = {"page_size": 4, "compact_every": 3, "chunk_size": 16, "storage": storage, **fields}
    engine = Engine.from_pretrained(folder, policy=policy, dtype="float32", device="cpu", kv_memory="4MiB", **config)
    sampling = SamplingParams(max_new_tokens=20, ignore_eos=True)
    prompts = {str(i): [(i * 31 + j * j) % 199 for j in range(12 + 15 * i)] for i in range(4)}
    requests = [Request(name, ids, sampling, return_kept_positions=True) for name, ids in prompts.items()]
    return {done.id: done for done in engine.run(requests)}


@pytest.mark.parametrize(
    "form",
    [form for form in FORMS if form.name != "model" and not form.prunes_keys and not form.low_rank],
    ids=lambda form: form.name,
)
@pytest.mark.parametrize(
    ("policy", "prefill"),
    [
        ({"name": "corm", "window": 16, "recent": 4, "tau": 2.0, "reach": 1}, "exact"),
        ({"name": "corm", "window": 16, "recent": 4, "tau": 2.0, "reach": 1}, "streaming"),
        ({"name": "keydiff", "recent": 4, "budget": HEADS}, "streaming"),
        ({"name": "h2o", "recent": 4, "budget": {"name": "uniform", "max_kept": 12}}, "exact"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_the_engine_sees_what_was_stored_and_nothing_else(form, policy, prefill, tiny_llama):
    found = answers(tiny_llama, policy, form, prefill=prefill)
    rounded = answers(tiny_llama, policy, Rounded(form=form), prefill=prefill)
    plain = answers(tiny_llama, policy, "model", prefill=prefill)
    for name, one in found.items():
        assert one.token_ids == rounded[name].token_ids
        assert one.kept_positions == rounded[name].kept_positions
        assert one.mean_logprob == pytest.approx(rounded[name].mean_logprob, abs=1e-4)
    assert any(one.mean_logprob != pytest.approx(plain[name].mean_logprob, abs=1e-4) for name, one in found.items())


@forms
def test_bytes_held_are_those_of_the_form_and_bytes_full_those_of_the_model(form, tiny_llama):
    memory = answers(tiny_llama, {"name": "full"}, form)["3"].memory
    entries = (57 + 19) * 2 * 2
    entry = sum(column.num_bytes for column in entry_columns(form, 16, torch.float32))
    assert memory.kv_bytes_full == entries * 2 * 16 * 4
    assert memory.kv_bytes_final == entries * entry
    assert memory.kept_ratio == 1.0
