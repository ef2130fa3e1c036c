"""The policy section, and how it gets into a spec."""

import pytest
import yaml

from corm_batch.calibration.section import section_text, with_section, write_section, written_fields
from corm_batch.errors import SpecError
from tests.calibration.races import make_result

SECTION = "# calibrate: new\npolicy:\n  name: snapkv\n  pooling: 63\n"
FLOW = "# top\nname: a  # its name\npolicy:  {name: corm, tau: 4}  # mine\n\n# about output\noutput: {uri: x}\n"
BLOCK = "name: a\npolicy:\n  name: corm  # why\n  # inside\n  tau: 4\n\n# about output\noutput: {uri: x}\n"


def test_it_promises_what_was_found_in_comments():
    result = make_result()
    text = section_text(result, result.of("snapkv pooled"))
    assert yaml.safe_load(text) == {"policy": {"name": "snapkv", "pooling": 63}}
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert comments == [
        "# calibrate: corm-batch calibrate job.yaml on 2026-11-27, m (float32)",
        "# calibrate: loses at most 0.70%, with 95 % confidence; 0.30% (-0.10%..0.70%) on 16 documents "
        "that had no part in the choice",
        "# calibrate: 2 of 16 would have been answered otherwise; with 95 % confidence at most 34.4 % of all "
        "(16 documents cannot show less than 17.1 %)",
        "# calibrate: holds 30.0% of an uncompressed cache's bytes at its peak",
    ]


@pytest.mark.parametrize("text", [FLOW, BLOCK, FLOW.replace("\n", "\r\n"), BLOCK.partition("\n# about")[0], "name: a"])
def test_nothing_but_the_policy_changes_and_no_comment_is_lost(text):
    new = with_section(text, SECTION)
    assert yaml.safe_load(new) == {**yaml.safe_load(text), "policy": {"name": "snapkv", "pooling": 63}}
    for line in text.splitlines():
        assert line.strip() in new
    assert ("\r\n" in new) == ("\r\n" in text)
    assert new.count("\r\n") in (0, new.count("\n"))


def test_the_former_section_stays_as_a_comment_where_it_was():
    assert with_section(FLOW, SECTION) == (
        "# top\nname: a  # its name\n# calibrate: new\npolicy:\n  name: snapkv\n  pooling: 63\n"
        "# before: policy:  {name: corm, tau: 4}  # mine\n\n# about output\noutput: {uri: x}\n"
    )


def test_a_second_calibration_takes_its_own_promise_away():
    again = with_section(with_section(BLOCK, SECTION), SECTION.replace("new", "newer"))
    assert again.count("# calibrate:") == 1
    assert "# calibrate: newer\npolicy:" in again
    assert "# before:   tau: 4" in again


@pytest.mark.parametrize("text", ["{name: a, policy: {name: full}}", "- a", "a: ["])
def test_a_spec_that_cannot_be_edited_is_left_alone(text, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match="copy the section by hand"):
        write_section(str(path), SECTION)
    assert path.read_text() == text


def test_what_others_refer_to_is_not_taken_away(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("policy: &p {name: corm}\nother: *p\n")
    with pytest.raises(SpecError, match="copy the section by hand"):
        write_section(str(path), SECTION)
    path.write_text(BLOCK)
    write_section(str(path), SECTION)
    assert path.read_text() == with_section(BLOCK, SECTION)


def test_a_file_of_scores_is_written_by_its_name_and_every_default_out():
    fields = {"name": "snapkv", "recent": 32, "budget": {"name": "headkv", "max_kept": 64, "scores": [[1.0]]}}
    given = {"name": "snapkv", "budget": {"name": "headkv", "scores": "heads.json"}}
    assert written_fields(fields, given) == {
        "name": "snapkv", "recent": 32, "budget": {"name": "headkv", "max_kept": 64, "scores": "heads.json"},
    }  # fmt: skip
    assert written_fields({"name": "corm", "tau": 1.0}, {"name": "corm", "preset": "paper"}) == {
        "name": "corm",
        "tau": 1.0,
    }
