"""What is said of an evaluation's figures."""

from corm_batch.evaluation.paired import paired_means, paired_shares
from corm_batch.report.evaluation import about_rows, difference_text, failure_rows, group_title, score_text
from tests.evaluation.results import make_result


def test_differences_have_their_interval_and_unit():
    assert difference_text(paired_shares([1] * 100, [1] * 98 + [0] * 2), True) == "-2.0 (-7.9..+4.1) points"
    assert difference_text(paired_means([0.5, 0.5, 0.5], [0.25, 0.5, 0.45]), False) == "-0.100 (-0.429..+0.229)"
    assert difference_text(paired_means([0.5], [0.25]), False) == "-0.250"
    assert (score_text(0.9375, True), score_text(0.9375, False)) == ("93.8%", "0.938")


def test_a_title_names_a_group_once():
    figure = make_result().figures[0]
    assert group_title(figure) == "needles, facts 512: question after the document"
    alone = figure.model_copy(update={"suite": "summaries", "group": "summaries"})
    assert group_title(alone) == "summaries: question after the document"


def test_forms_of_entries_are_said_where_they_differ():
    def about(full, *forms):
        made = make_result()
        own = [one.model_copy(update={"storage": form}) for one, form in zip(made.candidates, forms, strict=True)]
        return dict(about_rows(made.model_copy(update={"candidates": own, "model": {**made.model, "storage": full}})))

    assert "entries" not in about("model", "model", "model")
    whole = about("model", "int8", "int8")
    assert whole["entries"] == "under policies stored as int8, those of the full cache as the model computes them"
    named = about("fp8", "fp8", "fp8")
    assert "entries" not in named
    assert "float32 with fp8 entries" in named["model"]


def test_how_it_was_made_and_what_failed():
    result = make_result(failed=1)
    about = dict(about_rows(result))
    assert about["model"] == "models/m, float32, on a CPU"
    assert about["intervals"] == "exact binomial, paired, Student's t, paired"
    assert about["command"] == "corm-batch eval job.yaml"
    assert list(failure_rows(result)) == [("short", "needles, facts 512, pass_key", "9,000", "it does not fit")]
