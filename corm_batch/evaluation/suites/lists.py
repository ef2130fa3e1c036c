"""Lists: everything a text says of a name, from several places of it: RULER's many values, records in order."""

from __future__ import annotations

from corm_batch.evaluation.fact_suite import FactSuite
from corm_batch.evaluation.facts import PLACES, Draw, Facts


def all_values(draw: Draw) -> Facts:
    """Two to four numbers of each of one to three names; all of a name are asked for."""
    names = draw.names(draw.random.choice((1, 2, 3)))
    count = draw.random.choice((4, 5, 6, 7))
    values = {name: [draw.digits(count) for _ in range(draw.random.randint(2, 4))] for name in names}
    order = draw.shuffled([(name, "") for name in names for _ in values[name]])
    left = {name: iter(numbers) for name, numbers in values.items()}
    lines = [f"One of the special magic numbers for {name} is: {next(left[name])}." for name, _ in order]
    question = "What are all the special magic numbers for {} mentioned in the provided text?"
    return Facts(lines, draw.shuffled([(question.format(name), ", ".join(values[name])) for name in names]))


def records(draw: Draw) -> Facts:
    """Two to six records, all of them asked for in the order of the text."""
    count = draw.random.choice((3, 3, 4, 5))
    rows = [(place, draw.digits(count)) for place in draw.random.sample(PLACES, draw.random.randint(2, 6))]
    lines = [f"Record: the {place} holds {crates} crates." for place, crates in rows]
    return Facts(lines, [("Summarize the records.", "; ".join(f"{place} {crates}" for place, crates in rows))])


class Lists(FactSuite, name="lists"):
    """Everything that is said of a name, or all records, in the order of the text."""

    makers = (all_values, records)
