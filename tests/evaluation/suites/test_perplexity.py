"""Pieces of a text, the last tokens of which are scored."""

import pytest

from corm_batch.errors import SpecError
from corm_batch.evaluation.asking import lay_out
from corm_batch.evaluation.base import Suite

TEXT = " ".join(f"On day {day} the ship went on over a quiet sea." for day in range(300))


def test_a_piece_is_cut_where_scoring_begins(chat):
    suite = Suite.from_spec({"name": "perplexity", "scored_tokens": 32})
    asked = list(lay_out({"p": suite}, chat, [128, 256], 2, texts=[TEXT]))
    assert [one.case.group for one in asked] == ["texts 128"] * 2 + ["texts 256"] * 2
    for one in asked:
        assert one.case.document + one.case.given in TEXT
        assert (len(one.prompt), len(one.answer_ids)) == (int(one.case.group.split()[1]) - 32, 32)
        assert chat.spelled(one.prompt) == one.case.document
        assert suite.position_text(one.case) == "no question"
    with pytest.raises(SpecError, match="lengths: got 64, allowed is 96 or more"):
        list(lay_out({"p": suite}, chat, [64], 2, texts=[TEXT]))
