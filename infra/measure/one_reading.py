"""Measure what one reading saves: the job of jobs/questions beside its three tasks apart, and every prompt apart.

    python -m infra.measure.one_reading                   # all documents of the quick start
    python -m infra.measure.one_reading --documents 6 --characters 4000 --output /tmp/one_reading.json
    python -m infra.measure.one_reading -- model.dtype=bfloat16 engine.max_sequences=64   # on a GPU

One engine of this process answers all of it, as a replica does, without Ray; documents are taken evenly over their
lengths. Writes infra/measure/results/one_reading.json and prints it, after each of the three.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from corm_batch.data.document import Document
from corm_batch.errors import DocumentError
from corm_batch.pipeline.asker import EngineAsker
from corm_batch.pipeline.engine_thread import EngineThread
from corm_batch.pipeline.model import model_loader
from corm_batch.pipeline.plan import plan_job
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Answer, Ask, Task
from corm_batch.tasks.overflow import at_once
from infra.measure.record import begin_record, write_record

ROOT = Path(__file__).parents[2]


class Apart(EngineAsker):
    """Asks everything by itself, so that every prompt reads the document again."""

    async def ask_all(self, asks: Sequence[Ask]) -> list[Answer | DocumentError]:
        """Several things, none of which knows of the others."""
        return [answer for (answer,) in await at_once(super(Apart, self).ask_all([ask]) for ask in asks)]


async def measure(spec: JobSpec, documents: Sequence[Document], keep: Callable[[dict[str, Any]], None]) -> None:
    """Tokens read and seconds of the three ways; `keep` gets those that were gone, after each."""
    model = model_loader(spec)()
    engine = EngineThread(model.engine, asyncio.get_running_loop())

    async def run(tasks: Sequence[Task], kind: type[EngineAsker]) -> dict[str, Any]:
        started, askers, unusable = time.monotonic(), list[EngineAsker](), 0
        for task in tasks:

            async def one(document: Document, task: Task = task) -> bool:
                asker = kind(document.doc_id, model.tokenizer, engine, model.engine.max_model_len)
                askers.append(asker)
                try:
                    await task.run(document, asker)
                except DocumentError:  # fields of no usable answer: it was asked all the same
                    return False
                return True

            unusable += (await at_once(map(one, documents))).count(False)
        costs = [asker.spent() for asker in askers]
        return {
            "seconds": round(time.monotonic() - started, 1),
            "tokens_read": sum(cost.prompt_tokens for cost in costs),
            "tokens_written": sum(cost.output_tokens for cost in costs),
            "unusable": unusable,
        }

    await run([spec.task], EngineAsker)  # what is compiled and captured once is: whoever came first would pay for all
    found: dict[str, Any] = {}
    for name, tasks, kind in (
        ("one_reading", [spec.task], EngineAsker),
        ("three_jobs", spec.task.parts, EngineAsker),
        ("every_prompt", [spec.task], Apart),
    ):
        figures = await run(tasks, kind)
        found[name] = _beside(figures, found["one_reading"]) if found else figures
        keep(found)


def _beside(found: dict[str, Any], together: dict[str, Any]) -> dict[str, Any]:
    """With how many times the tokens read and the time of one reading that took."""
    return found | {f"{name}_ratio": round(found[name] / together[name], 2) for name in ("tokens_read", "seconds")}


def planned_tokens(spec: JobSpec) -> dict[str, int]:
    """Tokens that `corm-batch plan` counts for all documents of the job, and of its tasks as jobs of their own."""
    sections = {name: section for name, section in yaml.safe_load(spec.to_yaml()).items() if name != "tasks"}
    alone = [JobSpec.from_mapping({**sections, "task": task.to_spec()}) for task in spec.task.parts]
    with tempfile.TemporaryDirectory() as nowhere:
        jobs = [
            one.model_copy(update={"output": one.output.model_copy(update={"uri": nowhere})}) for one in (spec, *alone)
        ]
        together, *apart = [plan_job(job).prompt_tokens for job in jobs]
    return {"one_reading": together, "three_jobs": sum(apart)}


def read_documents(spec: JobSpec, count: int | None, characters: int | None) -> list[Document]:
    """So many documents of the job, evenly over their lengths, and so much of each; all without a number."""
    columns = spec.task.source_columns
    documents = [document for split in spec.splits() for document in spec.source.read(split, columns)]
    documents = [replace(document, text=(document.text or "")[:characters]) for document in documents]
    documents.sort(key=lambda document: len(document.text or ""))
    step = max(1, len(documents) // count) if count else 1
    return documents[step // 2 :: step][:count]


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, help="how many; default: all")
    parser.add_argument("--characters", type=int, help="of each document at most; default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "infra/measure/results/one_reading.json")
    parser.add_argument("set", nargs="*", metavar="a.b=value", help="fields of the job, behind --")
    arguments = parser.parse_args()
    spec = JobSpec.load(str(ROOT / "jobs/questions/job.yaml"), arguments.set)
    documents = read_documents(spec, arguments.documents, arguments.characters)
    record = begin_record("one_reading", documents=len(documents), prompts_a_document=16)
    record["planned_tokens_of_all_documents"] = planned_tokens(spec)
    asyncio.run(measure(spec, documents, lambda found: write_record(record | found, arguments.output)))


if __name__ == "__main__":
    main()
