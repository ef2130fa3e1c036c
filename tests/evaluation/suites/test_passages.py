"""A sentence stands in one of the passages, whose number is the answer."""

import re

import pytest

from corm_batch.errors import SpecError
from corm_batch.evaluation.base import Suite

TEXT = " ".join(
    f"On day {day} the ship went on over a quiet sea. Nobody wrote a word of it in the log." for day in range(300)
)
SUITE = Suite.from_spec({"name": "passages", "passage_tokens": 60})


def test_the_sentence_stands_in_the_passage_of_the_answer_alone(tokenizer):
    cases = list(SUITE.cases(tokenizer, [512, 768], 3, texts=[TEXT]))
    assert [case.group for case in cases] == ["passages 512"] * 3 + ["passages 768"] * 3
    for case in cases:
        passages = dict(re.findall(r"Passage (\d+): (.*)", case.document))
        assert len(passages) == (5 if case.group.endswith("512") else 9)
        sentence = case.question.split("\n")[1]
        assert [number for number, text in passages.items() if sentence in text] == [case.answers[0]]
        tokens = tokenizer.encode(case.document + case.question, add_special_tokens=False).ids
        assert len(tokens) <= int(case.group.split()[1]) - 16
    assert cases[:3] == list(SUITE.cases(tokenizer, [512], 3, texts=[TEXT]))


def test_an_answer_is_the_number_or_says_it_first(tokenizer):
    case = next(SUITE.cases(tokenizer, [512], 1, texts=[TEXT]))
    number = case.answers[0]
    assert SUITE.score(case, f"Passage {number}.") == {"exact": 1.0, "said": 1.0}
    assert SUITE.score(case, f"It is {number}, not 99.") == {"exact": 0.0, "said": 1.0}
    assert SUITE.score(case, f"99 or {number}") == SUITE.score(case, "") == {"exact": 0.0, "said": 0.0}


def test_what_no_passages_can_be_cut_from_is_refused(tokenizer):
    with pytest.raises(SpecError, match="lengths: got 192, which holds no two passages of 60 tokens"):
        next(SUITE.cases(tokenizer, [192], 1, texts=[TEXT]))
    with pytest.raises(SpecError, match=r"suite.haystack: its text has hardly a sentence"):
        next(SUITE.cases(tokenizer, [512], 1, texts=["word " * 2000]))
