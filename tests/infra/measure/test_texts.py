"""Texts that a job's model reads: pieces of one length."""

import pytest
import torch

from infra.measure.texts import pieces


@pytest.mark.parametrize(("length", "starts"), [(1000, [0, 333, 666]), (400, [0, 133, 240]), (99, [0, 0, 0])])
def test_pieces_of_short_texts_are_of_one_length(length, starts):
    cut = list(pieces(lambda text, begin: [*map(ord, text)], [*map(chr, range(length))], 10, 3, torch.device("cpu")))
    assert [one.tolist() for one in cut] == [[*range(start, start + 10)] for start in starts]
