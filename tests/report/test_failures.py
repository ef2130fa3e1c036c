"""Failures by type and message, a bounded number of each."""

import pyarrow as pa

from corm_batch.report.failures import Message, failure_reasons


def reasons(*rows):
    columns = zip(*rows, strict=True)
    return failure_reasons(pa.table(dict(zip(("doc_id", "error_type", "error_message"), columns, strict=True))))


def test_messages_that_differ_only_in_numbers_are_one():
    rows = [(f"d{number}", "CapacityError", f"needs {number}.5 MiB, has 8") for number in range(1, 5)]
    found = reasons(*rows, ("e", "DocumentError", "is empty"), ("n", None, None))
    assert [(group.error_type, group.documents) for group in found] == [
        ("CapacityError", 4),
        ("-", 1),
        ("DocumentError", 1),
    ]
    assert found[0].messages == (Message("needs 1.5 MiB, has 8", 4, ("d1", "d2", "d3")),)


def test_they_are_bounded_and_say_so():
    letters = [chr(ord("a") + number % 26) * (1 + number // 26) for number in range(30)]
    rows = [(name, f"Error{name}", f"because {name}") for name in letters]
    rows += [(f"{name} again", "Same", f"because {name}") for name in letters]
    found = reasons(*rows)
    assert len(found) == 20
    assert (found[0].num_messages, len(found[0].messages)) == (30, 10)
