"""What is said of a policy that looks for a question where nobody has asked one yet."""

import pytest

from corm_batch.pipeline.question import about_question
from corm_batch.spec import JobSpec

SEVERAL = {"name": "question_answer", "questions": ["Who?", "When?"]}


def spec(**sections):
    data = {"name": "job", "model": {"name": "org/model"}, "source": {"name": "parquet", "uri": "s3://bucket/in/"}}
    return JobSpec.from_mapping({**data, "output": {"uri": "s3://bucket/out/"}, **sections})


@pytest.mark.parametrize("policy", [{"name": "corm"}, {"name": "snapkv"}, {"question": "known"}])
def test_what_is_known_to_happen_is_said(policy):
    job = spec(task=SEVERAL, policy=policy)
    (said,) = about_question(job)
    assert said.startswith(f"policy {job.policy.name} keeps what the last tokens before an answer look at")
    assert "26.5 points" in said
    assert "61.8" in said
    assert said.endswith("policy: {question: unknown} takes kvzip instead")


@pytest.mark.parametrize(
    "sections",
    [
        {"task": SEVERAL, "policy": {}},
        {"task": SEVERAL, "policy": {"name": "h2o"}},
        {"task": SEVERAL | {"questions": ["Who?"]}, "policy": {"name": "corm"}},
    ],
)
def test_nothing_is_said_where_nothing_has_to_be_known(sections):
    assert not list(about_question(spec(**sections)))
