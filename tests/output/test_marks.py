"""Marks of rows, one by one and of a whole table."""

from dataclasses import asdict
from itertools import product

import pyarrow as pa

from corm_batch.output.marks import Marks
from corm_batch.text.repetition import LOOPING

ROWS = [
    {"finish_reason": reason, "truncated": truncated, "repetition": repetition, "failed_fields": failed}
    for reason, truncated, repetition, failed in product(
        ("length", "stop", None), (True, False, None), (LOOPING, LOOPING - 0.01, None), (["year"], [], None)
    )
]


def test_a_row_of_which_nothing_is_known_has_no_mark():
    assert Marks.of({}) == Marks(cut_off=False, truncated=False, looping=False, with_failed_fields=False)


def test_a_table_has_as_many_of_each_as_its_rows():
    marks = [asdict(Marks.of(row)) for row in ROWS]
    lengths = [None if row["failed_fields"] is None else len(row["failed_fields"]) for row in ROWS]
    table = pa.Table.from_pylist(ROWS).drop_columns("failed_fields").append_column("failed_fields", [lengths])
    expected = {name: sum(mark[name] for mark in marks) for name in marks[0]}
    assert Marks.count(table) == expected == dict.fromkeys(expected, 27)
