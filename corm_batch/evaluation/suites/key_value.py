"""Key-value retrieval: pairs of a JSON object, with words and with opaque strings as keys."""

from __future__ import annotations

import uuid

from corm_batch.evaluation.fact_suite import FactSuite
from corm_batch.evaluation.facts import Draw, Facts


def key_value(draw: Draw) -> Facts:
    """Pairs of a JSON object with words as keys, filling a part of the text."""
    line = ' "{}": "{}",'
    values = {name: draw.digits() for name in draw.names(draw.filling(line.format("quiet-falcon-17", "12345")))}
    questions = [(f'What is the value associated with the key "{name}"?', value) for name, value in values.items()]
    return Facts([line.format(*item) for item in values.items()], draw.shuffled(questions))


def opaque_key_value(draw: Draw) -> Facts:
    """The same with UUIDs or six digits on both sides."""

    def opaque() -> str:
        return str(uuid.UUID(int=draw.random.getrandbits(128))) if long else draw.digits(6)

    long = draw.random.random() < 0.5
    line = ' "{}": "{}",'
    values = {opaque(): opaque() for _ in range(draw.filling(line.format(opaque(), opaque())))}
    questions = [(f'What is the value associated with the key "{key}"?', value) for key, value in values.items()]
    return Facts([line.format(*item) for item in values.items()], draw.shuffled(questions))


class KeyValue(FactSuite, name="key_value"):
    """The value of one of many keys."""

    makers = (key_value, opaque_key_value)
