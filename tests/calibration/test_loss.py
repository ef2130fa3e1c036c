"""What is lost, in nats and in percent."""

import math

import pytest

from corm_batch.calibration.loss import MaxLoss, document_loss, noise, share_of
from corm_batch.errors import DocumentError, SpecError
from corm_batch.evaluation.answers import Answered


def answered(logprobs, best=None):
    return Answered("k", "", (1,) * len(logprobs), "length", tuple(logprobs), tuple(best or logprobs))


def test_noise_is_what_the_full_cache_loses_to_itself():
    full = [answered([-1.0, -1.2, -1.4]), answered([-2.0])]
    assert noise(full, [-1.1, -2.0]) == pytest.approx((-3.3 - 2.0 + 5.6) / 4)
    assert math.isnan(noise(full, [-1.1, math.nan]))  # of an answer that was written down without it


@pytest.mark.parametrize(
    ("text", "nats"),
    [
        ("1%", math.log(1.01)),
        (" 2.5 % ", math.log(1.025)),
        (".5%", math.log(1.005)),
        ("0.01 nats", 0.01),
        ("1nat", 1.0),
    ],
)
def test_what_may_be_lost_is_a_share_or_nats(text, nats):
    assert MaxLoss.parse(text).nats == pytest.approx(nats)


@pytest.mark.parametrize("text", ["", "1", "one %", "-1%", "0%", "0.0 nats", "1 % of all", "nan%", "1e9%", "101 nats"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(SpecError, match=r"--max-loss: got .*, allowed are .* as 1%, or nats a token"):
        MaxLoss.parse(text)


def test_a_loss_is_what_perplexity_rises_by():
    assert share_of(MaxLoss.parse("1%").nats) == pytest.approx(0.01)


def test_a_documents_loss_is_over_all_its_tokens():
    full = [answered([-1.0, -1.0, -1.0]), answered([-2.0])]
    there = [answered([-1.0, -1.5, -1.0], [-1.0, -0.9, -1.0]), answered([-1.9])]
    found = document_loss(full, there, 0.01, sampled=False)
    assert found.nats == pytest.approx((0.5 - 0.1) / 4)
    assert found.changed
    assert document_loss(full, there, 0.7, sampled=False).changed is False  # within the arithmetic's noise
    assert document_loss(full, there, 0.01, sampled=True).changed is None


@pytest.mark.parametrize("bad", [[-math.inf], [math.nan], [-1.0]])
def test_scores_that_are_no_numbers_are_no_loss(bad):
    there = Answered("k", error="no room") if bad == [-1.0] else answered(bad)
    with pytest.raises(DocumentError, match=r"no room|no number, or 0"):
        document_loss([answered([-1.0])], [there], 0.01, sampled=False)
