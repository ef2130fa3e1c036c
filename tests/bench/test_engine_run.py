"""What is measured of an engine run."""

import pytest
import torch

from corm_batch.bench.engine_run import DecodeSample, full_batch_ms, measure_engine, random_prompts
from corm_batch.bench.model import random_model
from corm_batch.errors import DocumentError


def test_the_median_step_of_full_batches():
    samples = [
        DecodeSample(0.9, 1, 2),  # few documents yet: not counted
        DecodeSample(0.2, 2, 20),
        DecodeSample(0.4, 2, 20),
        DecodeSample(0.3, 1, 10),
        DecodeSample(0.7, 1, 5),  # some ended: not counted
    ]
    assert full_batch_ms(samples) == pytest.approx(200)
    assert full_batch_ms([]) is None


def test_prompts_are_random_and_the_same_again(small):
    prompts = random_prompts(small, 1, 4, 50)
    assert [len(prompt) for prompt in prompts] == [50] * 4
    assert prompts == random_prompts(small, 1, 4, 50) != random_prompts(small, 2, 4, 50)
    assert {len(prompt) for prompt in random_prompts(small, 1, 2)} == {96}


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_figures_of_both_policies(small, prefill):
    model = random_model(small.model, small.torch_dtype, torch.device("cpu"))
    corm, full = (measure_engine(model, small, small.policy(engine), prefill) for engine in ("corm", "full"))
    for measured in (corm, full):
        assert (measured.documents, measured.documents_in_flight) == (5, 5)
        assert measured.wall_s > 0
        assert measured.prefill_tokens_per_s > 0
        assert measured.decode_ms_per_step > 0
    # 103 tokens are stored at the end (of the last one only the answer knows), 4 lists of 7 pages of 16 entries
    assert full.kept_ratio == 1
    assert full.kv_bytes_per_document == 4 * 7 * 16 * (2 * 16 * 4 + 12)
    assert corm.kept_ratio == pytest.approx(32 / 103)
    assert corm.kv_bytes_per_document < full.kv_bytes_per_document


def test_a_document_that_cannot_be_answered_ends_the_measurement(small):
    model = random_model(small.model.model_copy(update={"vocab_size": 100}), small.torch_dtype, torch.device("cpu"))
    with pytest.raises(DocumentError, match=r"outside 0\.\.99"):
        measure_engine(model, small, small.policy("full"), "exact")
