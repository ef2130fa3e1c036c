"""Shapes of what is asked: a workload of `corm-batch bench`, how long its answers are, and what is asked of a document.

The same for every engine that is measured. A shape is NAME[:ANSWER]: a workload, and as many tokens an answer
where it is not to be the workload's own.
"""

from __future__ import annotations

from argparse import ArgumentParser

import numpy as np

from corm_batch.bench.workload import Workload, find_workload
from corm_batch.errors import SpecError


def find_shape(asked: str) -> Workload:
    """The workload with answers of the length that is asked for; it then goes by the whole of `asked`.

    Raises:
        SpecError: there is no such workload, or the length is no number above 0.
    """
    name, colon, answer = asked.partition(":")
    workload = find_workload(name)
    if not colon:
        return workload
    if not (answer.isdecimal() and int(answer)):
        raise SpecError(f"--workload: {asked!r}: expected a number of answer tokens behind the colon, got {answer!r}")
    return workload.model_copy(update={"name": asked, "output_tokens": int(answer)})


def find_shapes(parser: ArgumentParser, asked: list[str]) -> list[Workload]:
    """The shapes, all of one model; what is wrong with them is the parser's error."""
    try:
        shapes = [find_shape(one) for one in asked]
    except SpecError as error:
        parser.error(str(error))
    if any(shape.model != shapes[0].model for shape in shapes):
        parser.error("--workload: of one model each time")
    return shapes


def random_questions(workload: Workload, count: int, num_tokens: int) -> list[list[int]]:
    """What is asked of every document: [count][num_tokens] random token ids."""
    size = count, num_tokens
    ids: list[list[int]] = np.random.default_rng(4).integers(workload.model.vocab_size, size=size).tolist()
    return ids
