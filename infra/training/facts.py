"""The tasks over planted facts that training draws: those of the evaluation's suites, and how often each."""

from __future__ import annotations

from corm_batch.evaluation.facts import Maker
from corm_batch.evaluation.suites.key_value import key_value, opaque_key_value
from corm_batch.evaluation.suites.lines import register_lines
from corm_batch.evaluation.suites.lists import all_values, records
from corm_batch.evaluation.suites.needles import left_object, magic_number, one_of_several, pass_key, place_number

TASKS: dict[Maker, float] = {
    pass_key: 1,
    place_number: 1,
    one_of_several: 2,
    left_object: 3,
    magic_number: 2,
    all_values: 4,
    records: 6,
    register_lines: 3,
    key_value: 2,
    opaque_key_value: 2,
}
"""Every task and how often it is drawn in training, against the others."""
