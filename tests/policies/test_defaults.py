"""Which policy serves where none is named."""

import pytest

from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.defaults import DEFAULTS, with_name


@pytest.mark.parametrize(
    ("section", "asks_several", "name"),
    [
        ({}, False, "corm"),
        ({}, True, "kvzip"),
        ({"question": None}, True, "kvzip"),
        ({"question": "known"}, True, "corm"),
        ({"question": "unknown"}, False, "kvzip"),
        ({"question": "unknown", "pin_first": 8}, False, "kvzip"),
        ({"question": "known", "tau": 4}, True, "corm"),
        ({"name": "snapkv"}, True, "snapkv"),
        ({"name": "snapkv", "question": "unknown"}, False, "snapkv"),
    ],
)
def test_the_default_goes_by_what_is_known_and_a_name_stands(section, asks_several, name):
    given = dict(section)
    policy = KVPolicy.from_spec(with_name(section, asks_several=asks_several))
    assert (policy.name, section) == (name, given)
    for field in ("pin_first", "tau"):
        assert field not in section or getattr(policy, field) == section[field]
    assert "question" not in policy.to_spec()


def test_the_default_for_unknown_questions_judges_without_them_at_half_of_the_bytes():
    known, unknown = (KVPolicy.from_spec(with_name({"question": question})) for question in DEFAULTS)
    assert known.looks_for_question
    assert not unknown.looks_for_question
    assert unknown.budget_at(0).max_kept == 0.75


def test_what_is_neither_is_refused():
    for wrong in ("maybe", True, ["known"], {}):
        with pytest.raises(SpecError, match=r"policy\.question: got .*, allowed are known and unknown"):
            with_name({"question": wrong})
    with pytest.raises(SpecError, match=r"policy\.name: no policy is called None"):
        KVPolicy.from_spec(with_name({"tau": 4}))
    with pytest.raises(SpecError, match="policy: expected a mapping"):
        KVPolicy.from_spec(with_name("corm"))


def test_policies_that_look_for_the_question_are_those_of_recent_queries():
    looking = {name for name, policy in KVPolicy.registered().items() if policy.model_construct().looks_for_question}
    assert looking == {"corm", "snapkv", "tova"}
