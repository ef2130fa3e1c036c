"""The search for layers that share: the definition on a tiny model, and what it writes."""

import copy
import json

import pytest
import torch

from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.loader import load_model
from corm_batch.pipeline.model import check_model
from corm_batch.spec import JobSpec
from infra.measure.shared_layers import SharingBatch, hidden_states, main, share, unlike_pairs
from infra.measure.texts import nats
from tests.conftest import llama_config, save_random_model

TEXTS = [torch.randint(0, 199, (48,), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_random_model(llama_config(num_hidden_layers=4), tmp_path_factory.mktemp("deep"))
    return load_model(folder, torch.float32, torch.device("cpu"))


@torch.inference_mode()
def test_a_layer_attends_to_what_another_one_holds(model):
    own, shared = SharingBatch(TEXTS[0], {}), SharingBatch(TEXTS[0], {2: 0})
    said = model.forward(shared)
    assert not torch.equal(said, model.forward(own))
    other = copy.deepcopy(model.module.model.layers[2].self_attn.k_proj.weight)
    model.module.model.layers[2].self_attn.k_proj.weight.zero_()  # of no account to a layer that takes another's
    assert torch.equal(model.forward(SharingBatch(TEXTS[0], {2: 0})), said)
    model.module.model.layers[2].self_attn.k_proj.weight.copy_(other)
    assert torch.equal(own.held[0][0], shared.held[0][0])
    alone, both = (nats(model, (SharingBatch(ids, takes) for ids in TEXTS)) for takes in ({}, {2: 0}))
    assert alone.shape == (3,)
    assert not torch.equal(alone, both)


@torch.inference_mode()
def test_the_search_takes_unlike_layers_first_and_only_what_stays_alike(model):
    pairs = unlike_pairs(model, TEXTS)
    assert sorted(pairs) == [(later, earlier) for later in range(4) for earlier in range(later)]
    assert unlike_pairs(model, TEXTS, nearest=True) == pairs[::-1]
    takes = share(model, TEXTS, pairs, 4, -1.0)
    assert next(iter(takes.items())) == pairs[0]
    assert not set(takes) & set(takes.values())
    assert share(model, TEXTS, pairs, 1, -1.0) == dict([pairs[0]])
    assert share(model, TEXTS, pairs, 4, 1.0) == {}
    assert hidden_states(model, TEXTS, {}).shape == (144, 48)


@pytest.mark.parametrize("share", ["0", "1.5", "nan"])
def test_a_share_that_is_none_is_refused(share, capsys):
    with pytest.raises(SystemExit):
        main(["job.yaml", "--text", "texts", "--share", share, "--output", "record.json"])
    assert "--share: a share above 0, at most 1, got" in capsys.readouterr().err


def test_one_command_writes_a_table_and_what_is_lost(tiny_job, tiny_model, tmp_path, capsys):
    job = tiny_job({boat: f"The {boat} boat lay at the river that year. " * 60 for boat in "abcd"})
    record = tmp_path / "record.json"
    main([job, "--text", str(tmp_path / "documents.jsonl"), "--cosine", "-1", "--share", "0.5", "--texts", "3",
          "--tokens", "40", "--device", "cpu", "--output", str(record)])  # fmt: skip
    found = json.loads(record.read_text())
    assert (found["num_layers"], found["wanted"]) == (2, 1)
    assert [row["takes"] for row in found["rows"]] == [[1, 0]]
    assert found["rows"][0]["half"] > 0
    table = JobSpec.load(job, [f"engine.sharing={record}"]).engine.sharing
    assert (dict(table), table.weights_sha256) == ({1: 0}, weights_sha256(tiny_model))
    check_model(JobSpec.load(job, [f"engine.sharing={record}"]))
