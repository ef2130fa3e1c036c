"""Cases over planted facts follow from seed, task and length alone, and hold the fact they ask for."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.errors import SourceError, SpecError
from corm_batch.evaluation.base import Suite
from corm_batch.evaluation.fact_suite import FactSuite

NAMES = [name for name, suite in Suite.registered().items() if issubclass(suite, FactSuite)]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("book") / "book.parquet"
    text = " ".join(f"On day {day} the ship went on over a quiet sea and nobody said a word." for day in range(400))
    pq.write_table(pa.table({"kind": ["haystack", "other"], "text": [text, "never read"]}), path)
    return str(path)


@pytest.fixture(params=NAMES)
def suite(request, book):
    return Suite.from_spec({"name": request.param, "haystack": book})


def test_cases_fit_their_length_and_hold_their_answer(suite, tokenizer):
    cases = list(suite.cases(tokenizer, [512], 2))
    assert [case.task for case in cases] == [maker.__name__ for maker in suite.makers for _ in range(2)]
    for case in cases:
        assert case.group == "facts 512"
        question = tokenizer.encode(f" {case.question}", add_special_tokens=False).ids
        text = case.document
        document = tokenizer.encode(text, add_special_tokens=False).ids
        assert 256 < len(document) + len(question) + 3 + case.max_new_tokens <= 512
        assert "the ship went on" in text
        assert "never read" not in text
        assert all(part.strip(",;") in text for part in case.answers[0].split())


def test_cases_depend_on_the_seed_and_not_on_other_lengths_and_counts(suite, tokenizer):
    drawn = list(suite.cases(tokenizer, [256, 512], 2))
    assert list(suite.cases(tokenizer, [512], 1)) == [case for case in drawn if case.group == "facts 512"][::2]
    other = list(suite.cases(tokenizer, [512], 1, seed=1))
    assert all(one.document != two.document for one, two in zip(drawn[-2::-2], other[::-1], strict=False))


def test_an_answer_is_the_fact_or_says_it_whole(suite, tokenizer):
    case = next(suite.cases(tokenizer, [512], 1))
    fact = case.answers[0]
    assert suite.score(case, f" {fact}\n") == {"exact": 1.0, "said": 1.0}
    assert suite.score(case, f"It is {fact}.") == {"exact": 0.0, "said": 1.0}
    assert suite.score(case, fact + "0") == suite.score(case, "") == {"exact": 0.0, "said": 0.0}


def test_without_a_file_facts_are_planted_in_the_users_own_documents(suite, tokenizer, book):
    own = type(suite)()
    assert (own.needs_texts, suite.needs_texts) == (True, False)
    texts = [f"Chapter {number}: nobody knew what the river carried that year." for number in range(300)]
    for case in own.cases(tokenizer, [512], 1, texts=texts):
        assert "what the river carried" in case.document
    with pytest.raises(SpecError, match=r"suite\.haystack: no text to plant anything in: name a file"):
        next(own.cases(tokenizer, [512], 1))


def test_some_of_its_tasks_are_asked_as_if_all_were(suite, tokenizer):
    name = suite.makers[-1].__name__
    some = suite.model_copy(update={"tasks": (name,)})
    drawn = list(suite.cases(tokenizer, [512], 1))
    assert list(some.cases(tokenizer, [512], 1)) == [case for case in drawn if case.task == name]
    for wrong in (["eggs"], []):
        with pytest.raises(SpecError, match=rf"suite\.tasks: there are: .*{name}, got "):
            Suite.from_spec({"name": suite.name, "tasks": wrong})


def test_too_short_a_text_and_too_short_a_length_are_refused(suite, tokenizer):
    with pytest.raises(SpecError, match=r"lengths: 512 takes 416 tokens of text to plant in, and there are 1[0-9]:"):
        next(type(suite)().cases(tokenizer, [512], 1, texts=["Nobody came to the river that year."]))
    with pytest.raises(SpecError, match="lengths: got 128, allowed is 160 or more"):
        next(suite.cases(tokenizer, [128], 1))


def test_a_file_without_a_haystack_is_refused(tmp_path, tokenizer):
    pq.write_table(pa.table({"kind": ["other"], "text": ["a"]}), tmp_path / "book.parquet")
    suite = Suite.from_spec({"name": "needles", "haystack": str(tmp_path / "book.parquet")})
    with pytest.raises(SourceError, match=r"book.parquet: no row is of the kind haystack"):
        next(suite.cases(tokenizer, [512], 1))
