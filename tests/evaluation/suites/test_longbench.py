"""LongBench's files: every dataset's instruction, length and metric."""

import pytest

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Suite
from corm_batch.evaluation.suites.longbench import DATASETS
from tests.evaluation.suites.files import write_lines

ROW = {
    "input": "Who came?", "context": "Passage 1:\nAda came.", "answers": ["Ada", "Ada Brand"], "length": 4,
    "dataset": "hotpotqa", "language": "en", "all_classes": None, "_id": "a1",
}  # fmt: skip


@pytest.fixture
def case(tmp_path, tokenizer):
    """Call with changes to the row; the suite and its case."""

    def make(**changes):
        suite = Suite.from_spec({"name": "longbench", "uri": write_lines(tmp_path / "f.jsonl", [ROW | changes])})
        (found,) = suite.cases(tokenizer, [], 1)
        return suite, found

    return make


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_is_asked_with_its_input_behind_the_context(case, name):
    _, found = case(dataset=name, all_classes=["Ada", "Tom"])
    assert (found.group, found.task, found.document) == (f"longbench {name}", name, ROW["context"])
    unasked = {"gov_report", "multi_news", "passage_count", "lcc"}
    assert ("Who came?" in found.question) == (name not in unasked)
    assert "{" not in found.question
    assert found.max_new_tokens == DATASETS[name].max_new_tokens


@pytest.mark.parametrize(
    ("name", "answers", "text", "score"),
    [
        ("hotpotqa", ["Ada", "Ada Brand"], "the Ada.", {"f1": 1.0}),
        ("triviaqa", ["Ada"], "\nAda\nTom and all the others", {"f1": 1.0}),
        ("hotpotqa", ["Ada"], "Ada\nTom", {"f1": pytest.approx(2 / 3)}),
        ("qmsum", ["a b c d"], "a x c", {"rouge_l": pytest.approx(4 / 7)}),
        ("passage_retrieval_en", ["Paragraph 7"], "Paragraph 7 or 8", {"numbers": 0.5}),
        ("passage_count", ["7"], "none", {"numbers": 0.0}),
        ("lcc", ["return x"], "# a comment\nreturn x\nmore", {"similarity": 1.0}),
        ("trec", ["Date"], "Date", {"accuracy": 1.0}),
        ("trec", ["Date"], "Date or Other place", {"accuracy": pytest.approx(1 / 3)}),
        ("trec", ["Date"], "Other place", {"accuracy": 0.0}),
        ("trec", ["Other place"], "Other place", {"accuracy": 1.0}),  # "Other" is a part of the answer's name
    ],
)
def test_scores_are_the_datasets_own(case, name, answers, text, score):
    suite, found = case(dataset=name, answers=answers, all_classes=["Date", "Other", "Other place"])
    assert suite.score(found, text) == score


def test_a_file_of_longbench_e_and_an_unknown_dataset(case):
    assert case(dataset="qasper_e")[1].task == "qasper"
    with pytest.raises(SourceError, match=r"row 0: dataset: got 'dureader', there are: narrativeqa, qasper"):
        case(dataset="dureader")
