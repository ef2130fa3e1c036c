"""transformers' generate as it is measured."""

import pytest
import torch

from corm_batch.bench import generate_run
from corm_batch.bench.generate_run import batch_that_fits, measure_generate
from corm_batch.bench.model import random_model

CPU = torch.device("cpu")


def test_batch(small):
    """104 tokens of 512 bytes, twice (two of two layers on top); 96 tokens of 3 * 128 + 6 * 64 numbers."""
    document = 104 * 512 * 2 + 96 * 768 * 4
    assert batch_that_fits(small, 7 * document) == 7
    assert batch_that_fits(small, 7 * document - 1) == 6
    assert batch_that_fits(small, 0) == 1


def test_figures(small):
    measured = measure_generate(random_model(small.model, small.torch_dtype, CPU), small)
    assert measured.documents == measured.documents_in_flight == 5
    assert measured.kept_ratio == 1
    assert measured.kv_bytes_per_document == 103 * small.kv_bytes_per_token
    assert 0 < measured.decode_ms_per_step / 1e3 < measured.wall_s
    assert measured.prefill_tokens_per_s > 5 * 96 / measured.wall_s


def test_batch_is_halved_until_it_fits(small, monkeypatch):
    asked, real = [], generate_run._measure

    def at_most_two(model, workload, batch):
        asked.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError("too many")
        return real(model, workload, batch)

    monkeypatch.setattr(generate_run, "_measure", at_most_two)
    assert measure_generate(random_model(small.model, small.torch_dtype, CPU), small).documents == 2
    assert asked == [5, 2]


def test_one_document_that_does_not_fit(small, monkeypatch):
    def never(model, workload, batch):
        raise torch.OutOfMemoryError("too long")

    monkeypatch.setattr(generate_run, "_measure", never)
    with pytest.raises(torch.OutOfMemoryError, match="too long"):
        measure_generate(random_model(small.model, small.torch_dtype, CPU), small)
