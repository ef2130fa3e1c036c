import pytest
from pydantic import ValidationError

from corm_batch.audit.config import MIN_GAP, VerifyConfig


def test_shares_are_numbers_or_percents():
    assert VerifyConfig(share="5%", stop_above=" 2.5 %") == VerifyConfig(share=0.05, stop_above=0.025)
    assert VerifyConfig(share="100%").share == 1
    for wrong in ("five %", "5 percent", 1.2, -0.1, "120%"):
        with pytest.raises(ValidationError):
            VerifyConfig(share=wrong)
    with pytest.raises(ValidationError):
        VerifyConfig(stop_above=1)


def test_least_gap_follows_the_number_format_unless_set():
    assert VerifyConfig().of_dtype("bfloat16").min_gap == MIN_GAP["bfloat16"] > MIN_GAP["float32"]
    assert VerifyConfig(min_gap=0).of_dtype("bfloat16").min_gap == 0
