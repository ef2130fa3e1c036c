import pytest

from corm_batch.data.variables import PLACES, with_variables
from corm_batch.errors import SpecError
from corm_batch.spec import JobSpec
from tests.test_spec import MINIMAL


def test_places_are_filled_in(monkeypatch):
    monkeypatch.setenv("BUCKET", "b")
    monkeypatch.setenv("DAY_1", "2026-01-01/${BUCKET}")
    data = {
        "name": "job-${BUCKET}",
        "source": {"name": "csv", "uri": "s3://${BUCKET}/${DAY_1}/*.csv", "delimiter": ";"},
        "task": {"instruction": "Say $5, ${ }, $BUCKET or ${{ text }}.", "schema": {"enum": ["{BUCKET}"]}},
        "verify": None,
    }
    found = with_variables(data)
    assert found["name"] == "job-b"
    assert found["source"] == {"name": "csv", "uri": "s3://b/2026-01-01/${BUCKET}/*.csv", "delimiter": ";"}
    assert (found["task"], found["verify"]) == (data["task"], None)
    assert "${BUCKET}" in data["source"]["uri"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"output": {"uri": "${NONE_SUCH}/x"}}, r"output\.uri: \$\{NONE_SUCH\}: the environment has no such variable"),
        ({"output": {"uri": "${EMPTY}/x"}}, r"output\.uri: \$\{EMPTY\}: the environment has no such variable, or an"),
        ({"source": {"uri": "${HF_TOKEN}"}}, r"source\.uri: \$\{HF_TOKEN\} is called like a secret"),
        ({"model": {"name": "${AWS_ACCESS_KEY_ID}"}}, r"model\.name: \$\{AWS_ACCESS_KEY_ID\} is called like a secret"),
        (
            {"task": {"questions": ["a", "${DAY}?"]}},
            r"task\.questions\.1: \$\{DAY\}: .* may stand in name, ",
        ),
        ({"model": {"chat_template_kwargs": {"date": "${DAY}"}}}, r"model\.chat_template_kwargs\.date: \$\{DAY\}"),
        ({"output": {"uri": "out/${DAY:-today}/"}}, r"output\.uri: \$\{DAY:-today\}: expected \$\{NAME\}"),
        ({"output": {"uri": "out/${DAY}/${1ST"}}, r"^output\.uri: \$\{1ST: expected \$\{NAME\}[^\n]*$"),
        ({"source": {"name": "${DAY}"}}, r"source\.name: \$\{DAY\}"),
    ],
)
def test_what_is_not_allowed_is_said_by_name(data, said, monkeypatch):
    for name, value in {"DAY": "monday", "HF_TOKEN": "hf_secret", "AWS_ACCESS_KEY_ID": "id", "EMPTY": ""}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SpecError, match=said) as caught:
        with_variables(data)
    assert "hf_secret" not in str(caught.value)


def test_a_spec_has_them_filled_in_and_every_place_is_a_field(monkeypatch):
    monkeypatch.setenv("FOLDER", "inbox")
    spec = JobSpec.from_mapping({**MINIMAL, "source": {**MINIMAL["source"], "uri": "s3://bucket/${FOLDER}/"}})
    assert spec.source.uri == "s3://bucket/inbox/"
    assert JobSpec.from_mapping({**MINIMAL, "name": "job-${FOLDER}"}).name == "job-inbox"
    with pytest.raises(SpecError, match=r"^here:\ntask\.instruction: \$\{FOLDER\}: .*\noutput\.uri: \$\{NONE_SUCH\}: "):
        JobSpec.from_mapping(
            {**MINIMAL, "output": {"uri": "${NONE_SUCH}"}, "task": {"name": "summarize", "instruction": "${FOLDER}"}},
            "here",
        )
    told = spec.model_dump(mode="json")
    for place in PLACES:
        section, _, field = place.rpartition(".")
        assert field in (told[section] if section else told), place
