"""Exit codes and what they say, in every place that names one."""

import re
from pathlib import Path

import pytest

from corm_batch import cli
from corm_batch.cli.calibrate import calibrate
from corm_batch.cli.run import run
from corm_batch.exit_codes import IN_VAIN, ExitCode, end_of

OPERATIONS = Path(__file__).parents[1] / "infra/deploy/operations.md"


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (0, "ok"), (1, "failed"), (2, "failed"), (3, "failed documents"), (4, "stopped"), (5, "failed"),
        (130, "cancelled"), (-2, "cancelled"), (-15, "cancelled"), (-9, "failed"), (137, "failed"), (127, "failed"),
    ],
)  # fmt: skip
def test_what_a_code_says_and_which_one_says_it(code, end):
    assert end_of(code) == end
    assert ExitCode.of(end) == {"failed": 1, "cancelled": 130}.get(end, code)
    if code in list(ExitCode):
        assert ExitCode(code).end == end


def test_what_would_end_alike_is_not_tried_again():
    assert [int(code) for code in IN_VAIN] == [2, 3, 4]


def test_texts_name_every_code():
    table = re.findall(r"^\| (\d+) \|", OPERATIONS.read_text(), re.M)
    said = [
        re.findall(r"\b(\d+) [a-z]", text.partition("Exit codes:")[2])
        for text in (cli.__doc__, run.__doc__, calibrate.__doc__)
    ]
    every, of_run = sorted(ExitCode), sorted({*ExitCode} - {ExitCode.NOTHING_CHOSEN})
    assert [sorted(map(int, codes)) for codes in (table, *said)] == [every, every, of_run, [0, 2, 5, 130]]
