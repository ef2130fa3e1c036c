"""A converted model learns from the one it was made of, and its folder says how."""

import json

import pytest
import torch

from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer
from corm_batch.weights.conversion import RECORD, Texts, convert
from corm_batch.weights.kv_heads import KVHeads
from infra.training.heal import ANSWER_WEIGHT, batches, compose, divergence, main


@pytest.fixture
def job(tiny_job):
    return tiny_job(
        {boat: f"The {boat} boat lay at the river that year, and nobody knew {boat} things. " * 60 for boat in "abcd"}
    )


def test_an_answer_counts_more_than_what_is_read(job, tiny_model):
    rows = compose(JobSpec.load(job), [400], 1)[400]
    asked, plain = rows[0], rows[1]
    assert set(plain.weight) == {1.0}
    assert max(len(row.ids) for row in rows) <= 400
    said = [token for token, weight in zip(asked.ids[1:], asked.weight[:-1], strict=True) if weight == ANSWER_WEIGHT]
    text = PromptTokenizer.from_pretrained(tiny_model, document_role="document").decode(said)
    assert text.strip()
    assert text.strip() in PromptTokenizer.from_pretrained(tiny_model, document_role="document").decode(asked.ids[:-9])
    ids, weight = next(batches({400: rows}, 1000))
    assert ids.shape == weight.shape == (2, max(len(row) for row in ids.tolist()))
    assert compose(JobSpec.load(job), [400], 1) == {400: rows}


def test_the_divergence_is_of_distributions_and_counts_by_weight():
    teacher = torch.tensor([[[0.0, 0.0], [3.0, 0.0]]])
    student = torch.tensor([[[0.0, torch.log(torch.tensor(3.0))], [1.0, 9.0]]])
    found = divergence(teacher, student, torch.tensor([[1.0, 0.0]]))
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.25)) + 0.5 * torch.log(torch.tensor(0.5 / 0.75))
    torch.testing.assert_close(found, expected)


def test_a_converted_model_comes_nearer(job, tiny_model, tmp_path, capsys):
    converted, healed = tmp_path / "one", tmp_path / "healed"
    convert(KVHeads(num_kv_heads=1), tiny_model, Texts([range(5, 200)], "x", "CC0-1.0"), converted, torch.device("cpu"))
    given = ["--lengths", "400", "--rows", "1", "--batch", "400", "--tokens", "4800", "--lr", "3e-3"]
    given += ["--warm-up", "400", "--log-every", "2", "--device", "cpu"]
    main([job, str(converted), str(healed), *given])
    record, before = (json.loads((folder / RECORD).read_text()) for folder in (healed, converted))
    done = record.pop("healed")
    assert record == before
    assert done["log"][-1]["divergence"] < 0.8 * done["log"][0]["divergence"]
    assert (done["tokens"], done["lr"]) == (4800, 3e-3)
    assert f"{healed}: " in capsys.readouterr().out
    assert json.loads((healed / "config.json").read_text())["num_key_value_heads"] == 1
    with pytest.raises(SystemExit, match="is there already"):
        main([job, str(converted), str(healed), *given])
