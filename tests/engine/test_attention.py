"""What a model may ask of attention: honoured, or refused by name."""

from __future__ import annotations

import pytest
import torch

from corm_batch.engine.attention import batch_attention_forward, read_features
from corm_batch.errors import UnsupportedModelError

MODULE = torch.nn.Identity()


def test_honoured_features_are_read():
    sink = torch.zeros(4)
    features = read_features(
        MODULE, 0.3, 16, {"sliding_window": 7, "softcap": 2.0, "s_aux": sink, "dropout": 0.0, "use_cache": True}
    )
    assert (features.scale, features.window, features.softcap) == (0.3, 7, 2.0)
    assert features.sink_H is sink


def test_the_usual_scale_is_the_default():
    assert read_features(MODULE, None, 16, {"sliding_window": None}).scale == 0.25


@pytest.mark.parametrize("kwargs", [{"position_bias": torch.zeros(1)}, {"is_causal": False}, {"alibi": 1.0}])
def test_anything_else_is_refused_by_name(kwargs):
    with pytest.raises(UnsupportedModelError, match=next(iter(kwargs))):
        read_features(MODULE, None, 16, kwargs)


def test_a_mask_of_the_models_own_is_refused():
    with pytest.raises(UnsupportedModelError, match="mask"):
        batch_attention_forward(MODULE, *(torch.zeros(1, 1, 1, 4) for _ in range(3)), torch.zeros(1), batch=None)
