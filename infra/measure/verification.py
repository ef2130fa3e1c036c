"""What verification finds of the answers that compression made wrong, and what it costs.

    python -m infra.measure.verification --device cuda                           # both models, bfloat16
    python -m infra.measure.verification --device cpu --cases 1 --lengths 1024   # to try it

Facts planted in held-out books are asked for, and texts summed up, by replicas as in a job, without Ray: with a full
cache; with one again, other documents beside each, every answer verified (the noise floor); and with a policy harsh
enough to make wrong answers, at verify.share 0, 0.05 and 1, flagging, and at 1 answering again. A first run that is not
timed takes what compiling and capturing take. `passed_gap` is the largest gap among documents that were passed and are
not the full cache's to the letter.

Writes infra/measure/results/verification.json, in which results of other models, number formats and devices stay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from corm_batch import Engine
from corm_batch.audit.config import VerifyConfig
from corm_batch.data.document import Document
from corm_batch.data.schema import memory_schema, result_schema
from corm_batch.data.yaml_text import load_yaml
from corm_batch.evaluation.asking import Asked
from corm_batch.evaluation.paired import paired_shares, share_bounds
from corm_batch.output.rows import DocumentRow, RowBuilder
from corm_batch.pipeline.worker import EngineActor, Model, WorkerSettings
from corm_batch.tasks.base import Task
from infra.measure.held_out import JOBS, NEEDLES, ROOT, SUMMARIES, AskedModel
from infra.measure.record import begin_record, write_record

OUTPUT = ROOT / "infra/measure/results/verification.json"
HARSH = "{name: snapkv, recent: 64, budget: {name: uniform, max_kept: 256}}"
GAPS = (0.01, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0)
"""Values of verify.min_gap that the same answers are held against."""
ANSWER_TOKENS = {"needles": 64, "summaries": 128}
SUMMARIES_A_CASE = 5
"""As many times more texts to sum up of a kind than facts of a kind and length."""
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}

Rows = Mapping[str, DocumentRow]
"""Of one run, by the case's key."""


@dataclass(frozen=True)
class Run:
    """One run over all cases of a group.

    Attributes:
        rows: of the documents.
        seconds: from the first document to the last row.
    """

    rows: Rows
    seconds: float

    def told(self) -> dict[str, float]:
        """Seconds and documents an hour."""
        return {"seconds": round(self.seconds, 1), "documents_per_hour": round(3600 * len(self.rows) / self.seconds)}


def load(options: argparse.Namespace, asked: AskedModel, policy: Mapping[str, Any]) -> Model:
    """A replica's model under a policy."""
    tokenizer = asked.tokenizer
    engine: Any = Engine.from_pretrained(
        asked.folder, policy=policy, dtype=options.dtype, device=options.device, end_token_ids=tokenizer.end_token_ids,
        kv_memory=options.kv_memory,
    )  # fmt: skip
    return Model(engine, tokenizer, pool_tokens=0)


class Turn:
    """An engine for one run. A replica's thread steps its engine for ever: it is not to see the next run's work."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.over = engine, False

    @property
    def has_work(self) -> bool:
        """Whether a request of this run is unfinished."""
        return not self.over and self._engine.has_work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


async def run_job(model: Model, asked: Sequence[Asked], group: str, verify: VerifyConfig | None, in_flight: int) -> Run:
    """Answer every case by one replica, `in_flight` at a time, in this order."""
    task = Task.from_spec(
        {
            "name": "question_answer",
            "question_column": "question",
            "instruction": "{question}",
            "max_new_tokens": ANSWER_TOKENS[group],
        }
    )
    rows = RowBuilder("run", "", result_schema(task.result_fields, {}), memory_schema({}), {"policy": "{}"})
    engine = Turn(model.engine)
    mine = replace(model, engine=engine)
    actor = EngineActor(WorkerSettings(lambda: mine, task, rows, document_timeout_s=3600.0, verify=verify))
    await actor.load()
    room = asyncio.Semaphore(in_flight)

    async def process(one: Asked) -> DocumentRow:
        async with room:
            return await actor.process(Document(one.key, one.case.document, {"question": one.case.question}))

    started = time.monotonic()
    found = await asyncio.gather(*map(process, asked))
    seconds = time.monotonic() - started
    engine.over = True
    if failed := [row for row in found if not row.ok or row.result.get("verify_error")]:
        raise SystemExit(f"{len(failed)} documents failed, such as {dict(failed[0].result)}")
    return Run({row.result["doc_id"]: row for row in found}, seconds)


def detected(asked: Sequence[Asked], full: Rows, harsh: Rows, min_gap: float) -> dict[str, Any]:
    """What verification says of a policy's answers under a `min_gap`, beside what the full cache answered."""
    flagged = {key for key, row in harsh.items() if row.result["largest_gap"] > min_gap}
    same = {key for key, row in harsh.items() if row.result["output"] == full[key].result["output"]}
    passed = harsh.keys() - flagged
    wrong = {one.key for one in asked if right(one, full) and not right(one, harsh)}
    gaps = [harsh[key].result["largest_gap"] for key in passed - same]
    return {
        "flagged": share(len(flagged), len(harsh)),
        "wrong_by_compression": len(wrong),
        "of_these_flagged": share(len(wrong & flagged), len(wrong)),
        "passed_with_the_full_caches_text": share(len(passed & same), len(passed)),
        "passed_gap": max(gaps, default=0.0),
    }


def right(one: Asked, rows: Rows) -> bool:
    """Whether a fact is said; no summary is right or wrong."""
    return one.suite.score(one.case, rows[one.key].result["output"]).get("said", 0.0) > 0


def share(hits: int, count: int) -> dict[str, Any]:
    """A share and its exact 95 % interval."""
    return {"hits": hits, "of": count, "share": hits / count if count else None, "95": list(share_bounds(hits, count))}


def agreeing(asked: Sequence[Asked], full: Rows, again: Rows, rerun: Rows) -> dict[str, Any]:
    """The full cache's texts in a job with share 1 that answers again, beside those in its own second answers."""
    equal = [
        [float(rows[one.key].result["output"] == full[one.key].result["output"]) for one in asked]
        for rows in (again, rerun)
    ]
    texts = paired_shares(*equal)
    facts = paired_shares(*([float(right(one, rows)) for one in asked] for rows in (full, rerun)))
    return {
        "answered_again": sum(bool(row.result["rerun"]) for row in rerun.values()),
        "same_text": texts.there,
        "same_text_floor": texts.here,
        "same_text_difference_95": [texts.low, texts.high],
        "right": facts.there,
        "right_full": facts.here,
        "right_difference_95": [facts.low, facts.high],
    }


async def measure_group(
    options: argparse.Namespace, models: Mapping[str, Model], asked: Sequence[Asked], group: str
) -> dict[str, Any]:
    """All runs of one group, and what follows from them."""
    noise = VerifyConfig(share=1).of_dtype(options.dtype)

    async def run(policy: str, verify: VerifyConfig | None = None, *, turned: bool = False) -> Run:
        cases = asked[::-1] if turned else asked
        in_flight = options.in_flight // 2 if turned else options.in_flight
        found = await run_job(models[policy], cases, group, verify, max(1, in_flight))
        print(f"{group}, {policy}, {verify or 'not verified'}: {found.told()}", flush=True)
        return found

    full = await run("full")
    again = await run("full", noise, turned=True)
    await run("harsh", noise.model_copy(update={"on_difference": "rerun"}), turned=True)
    shares = {of: noise.model_copy(update={"share": of}) for of in (0.0, 0.05, 1.0)}
    timed = {f"share {of:g}": await run("harsh", verify) for of, verify in shares.items()}
    rerun = await run("harsh", noise.model_copy(update={"on_difference": "rerun"}))
    flags = timed["share 1"].rows
    return {
        "documents": len(asked),
        "prompt_tokens": sum(len(one.prompt) for one in asked),
        "min_gap": noise.min_gap,
        "evicted": 1 - sum(row.memory["kept_ratio"] for row in flags.values()) / len(flags),
        "right": {
            name: sum(right(one, rows) for one in asked) for name, rows in (("full", full.rows), ("harsh", flags))
        },
        "detected": detected(asked, full.rows, flags, noise.min_gap or 0.0),
        "by_min_gap": {str(gap): detected(asked, full.rows, flags, gap) for gap in GAPS},
        "noise_flagged": {
            str(gap): share(sum(row.result["largest_gap"] > gap for row in again.rows.values()), len(asked))
            for gap in GAPS
        },
        "noise_largest_gap": max(row.result["largest_gap"] for row in again.rows.values()),
        "rerun": agreeing(asked, full.rows, again.rows, rerun.rows),
        "speed": {name: one.told() for name, one in {**timed, "share 1, rerun": rerun}.items()},
    }


async def measure(options: argparse.Namespace, about: AskedModel) -> AsyncIterator[dict[str, Any]]:
    """What was found on one model, again after each group."""
    policies = {"full": {"name": "full"}, "harsh": load_yaml(options.policy, "--policy")}
    models = {name: load(options, about, policy) for name, policy in policies.items()}
    room = models["full"].engine.max_model_len
    drawn = {
        "needles": about.cases(NEEDLES, options.lengths, options.cases),
        "summaries": about.cases(SUMMARIES, options.lengths, SUMMARIES_A_CASE * options.cases),
    }
    groups = {}
    for group, cases in drawn.items():
        fitting = [one for one in cases if len(one.prompt) + ANSWER_TOKENS[group] <= room]
        groups[group] = await measure_group(options, models, fitting, group)
        yield {
            "model": about.name,
            "dtype": options.dtype,
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "policy": policies["harsh"],
            "lengths": options.lengths,
            "groups": groups,
        }


async def measure_all(options: argparse.Namespace) -> None:
    """Measure each model; the record is written after each group, so that a run that is ended keeps what it found."""
    results = json.loads(options.output.read_text())["results"] if options.output.exists() else []
    for job in options.job or JOBS:
        record = begin_record("verification")
        async for found in measure(options, AskedModel(job)):
            same = {name: found[name] for name in ("model", "dtype", "device")}
            results = [one for one in results if {name: one[name] for name in same} != same] + [found]
            write_record({**record, "results": results}, options.output)


def main() -> None:
    """Measure, with what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", action="append", help="whose model is asked; may be given again")
    parser.add_argument("--policy", default=HARSH, help="as YAML")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=list(DTYPES))
    parser.add_argument("--dtype", help="default: float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--cases", type=int, default=20, help="of each task and length; five times as many summaries")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 7168], help="tokens, answer included")
    parser.add_argument("--in-flight", type=int, default=256, help="documents at a time")
    parser.add_argument("--kv-memory", default="8GiB", help="of each of the two engines")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    options.dtype = options.dtype or DTYPES[options.device]
    asyncio.run(measure_all(options))


if __name__ == "__main__":
    main()
