"""Measure what a grammar does for `extract`: answers that are valid, and fields that are right, with and without one.

    python -m infra.measure.constrained --model models/SmolLM2-135M-Instruct --seconds 150    # again until it is done

Documents are pieces of the quick start's texts with a few facts planted, another set of facts in each; the fields are a
nested pydantic model's. Each document is asked once a way (`retries: 0`), greedily, with the full cache: first all with
a grammar, then all without. An answer that was cut off is none. Answers that are there are kept: it may be ended and
run again; figures are of what is there by then. Writes infra/measure/results/constrained.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corm_batch import Engine
from corm_batch.data.document import Document
from corm_batch.errors import DocumentError
from corm_batch.evaluation.facts import CITIES, OBJECTS, SURNAMES, TITLES
from corm_batch.evaluation.metrics import share, squad_words
from corm_batch.pipeline.asker import EngineAsker
from corm_batch.pipeline.engine_thread import EngineThread
from corm_batch.tasks.base import Task
from corm_batch.text.tokenize import PromptTokenizer
from infra.measure.record import begin_record, write_record, write_whole

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "infra/measure/results"
WAYS = ("constrained", "free")
_STATES = ("on loan", "in store", "sold")


class Owner(BaseModel):
    """Whose it is."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(max_length=40)]
    city: Annotated[str, Field(max_length=30)]


class Thing(BaseModel):
    """What a document says of one thing."""

    model_config = ConfigDict(extra="forbid")
    item: Annotated[str, Field(max_length=40)]
    owner: Owner
    year: int
    state: Literal["on loan", "in store", "sold"]
    kept_with: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=3)]


def plain(schema: Any) -> Any:
    """A schema without titles and descriptions, which say here what names say."""
    if not isinstance(schema, dict):
        return schema
    return {key: plain(value) for key, value in schema.items() if key not in ("title", "description")}


def quick_start_words() -> list[str]:
    """Those of its texts, one after the other."""
    texts = pq.read_table(ROOT / "jobs/quickstart/documents.parquet", columns=["text"]).column("text").to_pylist()
    return " ".join(texts).split()


def planted(number: int, words: Sequence[str], length: int) -> tuple[str, Thing]:
    """A document of about `length` words in which a thing's facts stand, and these."""
    chance = random.Random(number)
    item, *others = chance.sample(OBJECTS, 3)
    owner = Owner(name=f"{chance.choice(TITLES)} {chance.choice(SURNAMES)}", city=chance.choice(CITIES))
    thing = Thing(
        item=item, owner=owner, year=chance.randrange(1700, 1990), state=chance.choice(_STATES), kept_with=others
    )
    lines = [
        f"The {item} belongs to {owner.name} of {owner.city}.",
        f"The {item} was made in {thing.year} and is now {thing.state}.",
        f"It is kept with the {others[0]} and the {others[1]}.",
    ]
    start = chance.randrange(len(words) - length)
    parts = [" ".join(words[start + length * place // 4 : start + length * (place + 1) // 4]) for place in range(4)]
    return "\n".join([parts[0], lines[0], parts[1], lines[1], parts[2], lines[2], parts[3]]), thing


def right_fields(said: Mapping[str, Any] | None, thing: Thing) -> dict[str, bool]:
    """Which facts an answer states, as a reader would take them."""
    found = said or {}
    owner = found.get("owner")
    owner = json.loads(owner) if isinstance(owner, str) else owner
    owner = owner if isinstance(owner, dict) else {}
    others = found.get("kept_with")
    others = json.loads(others) if isinstance(others, str) else others

    def same(got: Any, wanted: Any) -> bool:
        return isinstance(got, str | int) and squad_words(str(got)) == squad_words(str(wanted))

    return {
        "item": same(found.get("item"), thing.item),
        "owner.name": same(owner.get("name"), thing.owner.name),
        "owner.city": same(owner.get("city"), thing.owner.city),
        "year": same(found.get("year"), thing.year),
        "state": same(found.get("state"), thing.state),
        "kept_with": isinstance(others, list)
        and sorted(squad_words(" ".join(map(str, others)))) == sorted(squad_words(" ".join(thing.kept_with))),
    }


def is_valid(output: str, finish_reason: str) -> bool:
    """Whether an answer that came to its end is a record as pydantic takes it, code fences around it or not."""
    text = output.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        Thing.model_validate_json(text)
    except ValidationError:
        return False
    return finish_reason == "stop"


async def answer(task: Task, document: Document, asker: EngineAsker) -> dict[str, Any]:
    """What the task makes of one document."""
    try:
        result = await task.run(document, asker)
        columns, output, reason = dict(result.columns), result.output, result.finish_reason
    except DocumentError as error:
        columns, reason = dict(getattr(error, "columns", {})), "error"
        output = getattr(error, "output", None) or asker.transcript.text
    memory = asker.spent()
    return {"columns": columns, "output": output, "finish_reason": reason, "tokens": memory.output_tokens}


async def answer_some(arguments: argparse.Namespace, known: dict[str, Any]) -> None:
    """Answer what is not known yet, a batch at a time, until the time is over; each batch is written down."""
    tokenizer = PromptTokenizer.from_pretrained(arguments.model)
    engine = Engine.from_pretrained(
        arguments.model, policy={"name": "full"}, dtype="float32", device=arguments.device, kv_memory="2GiB",
        max_sequences=arguments.batch,
    )  # fmt: skip
    thread, words = EngineThread(engine, asyncio.get_running_loop()), quick_start_words()
    every = [(way, number) for way in WAYS for number in range(arguments.documents)]
    open_ones = [(way, number) for way, number in every if f"{way} {number}" not in known]
    ends = time.monotonic() + arguments.seconds
    for start in range(0, len(open_ones), arguments.batch):
        if time.monotonic() > ends:
            return
        batch = open_ones[start : start + arguments.batch]
        running = []
        for way, number in batch:
            task = Task.from_spec(
                {
                    "name": "extract", "schema": plain(Thing.model_json_schema()), "max_new_tokens": 160, "retries": 0,
                    "constrained": way == "constrained",
                }
            )  # fmt: skip
            text, _ = planted(number, words, arguments.words)
            name = f"{way} {number}"
            asker = EngineAsker(name, tokenizer, thread, engine.max_model_len)
            running.append(answer(task, Document(name, text), asker))
        for (way, number), found in zip(batch, await asyncio.gather(*running), strict=True):
            known[f"{way} {number}"] = found
        write_whole(known, arguments.kept)


def summary(arguments: argparse.Namespace, known: Mapping[str, Any]) -> dict[str, Any]:
    """Of either way: valid records, right fields, and tokens an answer; over documents that both have answered."""
    words = quick_start_words()
    done = {way: [n for n in range(arguments.documents) if f"{way} {n}" in known] for way in WAYS}
    things = {number: planted(number, words, arguments.words)[1] for numbers in done.values() for number in numbers}
    right = {
        way: {number: right_fields(known[f"{way} {number}"]["columns"], things[number]) for number in numbers}
        for way, numbers in done.items()
    }
    found: dict[str, Any] = {}
    for way in (way for way in WAYS if done[way]):
        rows = [known[f"{way} {number}"] for number in done[way]]
        names = next(iter(right[way].values()))
        found[way] = {
            "documents": len(rows),
            "valid": share(is_valid(row["output"], row["finish_reason"]) for row in rows),
            "right_fields": share(hit for one in right[way].values() for hit in one.values()),
            "right_by_field": {name: share(one[name] for one in right[way].values()) for name in names},
            "mean_tokens": round(sum(row["tokens"] for row in rows) / len(rows), 1),
        }
    if both := sorted(set(done["constrained"]) & set(done["free"])):
        ours, theirs = ([right[way][number] for number in both] for way in WAYS)
        pairs = [(one[name], other[name]) for one, other in zip(ours, theirs, strict=True) for name in one]
        found["paired"] = {
            "documents": len(both),
            "fields": len(pairs),
            "right_constrained_only": sum(one and not other for one, other in pairs),
            "right_free_only": sum(other and not one for one, other in pairs),
        }
    return found


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--words", type=int, default=25, help="of a document, beside its facts")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin nothing after so many")
    parser.add_argument("--kept", type=Path, default=Path("constrained-answers.json"), help="answers that are there")
    parser.add_argument("--output", type=Path, default=RESULTS / "constrained.json")
    arguments = parser.parse_args()
    record = begin_record("constrained", model=Path(arguments.model).name)
    known = json.loads(arguments.kept.read_text(encoding="utf-8")) if arguments.kept.exists() else {}
    asyncio.run(answer_some(arguments, known))
    write_record(record | summary(arguments, known), arguments.output)


if __name__ == "__main__":
    main()
