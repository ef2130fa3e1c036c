"""Marks of rows, one by one and of a whole table."""

from dataclasses import asdict
from itertools import cycle, product

import pyarrow as pa

from corm_batch.audit.verdict import Verdict
from corm_batch.audit.verification import Verification
from corm_batch.output.marks import Marks
from corm_batch.text.repetition import LOOPING

ALIKE, OTHERWISE = Verdict(4, 4, None, 0.0, -0.1), Verdict(4, 3, 2, 1.5, -0.4)
FOUND = {
    "no verification": Verification(),
    "not chosen": Verification.not_chosen(0.1, sampled=False),
    "sampled, not chosen": Verification.not_chosen(0.1, sampled=True),
    "failed": Verification.failed(0.1, "too small"),
    "alike": Verification.done(0.1, ALIKE, -0.1, 1.0, sampled=False),
    "differing": Verification.done(0.1, OTHERWISE, -0.1, 1.0, sampled=False),
    "rerun": Verification.done(0.1, OTHERWISE, -0.1, 1.0, sampled=False).answered_again(),
    "not rerun": Verification.done(0.1, OTHERWISE, -0.1, 1.0, sampled=False).with_error("too small"),
    "sampled": Verification.done(0.1, OTHERWISE, -0.1, 1.0, sampled=True),
}
KINDS = product(("length", "stop", None), (True, False, None), (LOOPING, LOOPING - 0.01, None), (["year"], [], None))
ROWS = [
    {
        "finish_reason": reason,
        "truncated": truncated,
        "repetition": repetition,
        "failed_fields": failed,
        "fallback": fallback,
        **asdict(found),
    }
    for (reason, truncated, repetition, failed), (fallback, found) in product(
        KINDS, zip(cycle((True, False, None)), FOUND.values(), strict=False)
    )
]


def test_a_row_of_which_nothing_is_known_has_no_mark():
    assert not any(asdict(Marks.of({})).values())


def test_a_table_has_as_many_of_each_as_its_rows():
    marks = [asdict(Marks.of(row)) for row in ROWS]
    lengths = [None if row["failed_fields"] is None else len(row["failed_fields"]) for row in ROWS]
    table = pa.Table.from_pylist(ROWS).drop_columns("failed_fields").append_column("failed_fields", [lengths])
    expected = {name: sum(mark[name] for mark in marks) for name in marks[0]}
    assert Marks.count(table) == expected
    assert {expected[name] for name in ("cut_off", "truncated", "looping", "with_failed_fields")} == {len(ROWS) // 3}


def test_what_a_verification_counts_as():
    marks = {name: asdict(Marks.of(asdict(found))) for name, found in FOUND.items()}
    counted = {name: {mark for mark, holds in of_one.items() if holds} for name, of_one in marks.items()}
    assert counted == {
        "no verification": set(),
        "not chosen": {"audited"},
        "sampled, not chosen": set(),
        "failed": {"audited", "unverified"},
        "alike": {"audited", "verified"},
        "differing": {"audited", "verified", "differing"},
        "rerun": {"audited", "verified", "differing", "rerun"},
        "not rerun": {"audited", "verified", "differing"},
        "sampled": {"scored"},
    }
