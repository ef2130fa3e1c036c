"""Lines: LongEval's register lines."""

from __future__ import annotations

from corm_batch.evaluation.fact_suite import FactSuite
from corm_batch.evaluation.facts import Draw, Facts


def register_lines(draw: Draw) -> Facts:
    """LongEval's lines, filling a part of the text."""
    line = "line {}: REGISTER_CONTENT is <{}>"
    names = draw.names(draw.filling(line.format("quiet-falcon-17", "12345")))
    values = {name: draw.digits() for name in names}
    questions = [(f"What is the REGISTER_CONTENT in line {name}?", f"<{value}>") for name, value in values.items()]
    return Facts([line.format(*item) for item in values.items()], draw.shuffled(questions))


class Lines(FactSuite, name="lines"):
    """One of many lines that look alike."""

    makers = (register_lines,)
