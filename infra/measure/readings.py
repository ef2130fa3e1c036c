"""What reading a document once is worth: several questions about each, over one reading and each with one of its own.

    python -m infra.measure.readings --workload llama3.1-8b-16k:64 --questions 8 --weights fp8 --output RESULT.json
    python -m infra.measure.readings --workload llama3.1-8b-16k:64 --weights fp8 --storage fp8 --beside vllm.json ...

A workload is NAME[:ANSWER TOKENS] with the names of `corm-batch bench`; weights are random and drawn on the card,
prompts are random tokens that share nothing. Both sides run on one engine, one after the other: as many questions at
once as --max-sequences, and --waves times as many documents as these are about; of documents that are asked apart, with
every question in a prompt of its own, there are fewer by as much as is read of each more. With --beside, what
`infra.measure.vllm --questions` wrote on this card, a row says how many times as many documents an hour are answered.

What a head keeps is the workload's bound (policy `corm`), or what the default for unknown questions leaves of it
(`unknown`). For the latter the words that ask to repeat a text are as many random tokens as they are in Llama 3.1.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from corm_batch.bench.bench import device_name
from corm_batch.bench.engine_run import random_prompts
from corm_batch.bench.model import random_model
from corm_batch.bench.workload import Workload
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.defaults import with_name
from corm_batch.policies.model import Model, Turn
from infra.measure.questions import find_shapes, random_questions
from infra.measure.record import begin_record, write_record, write_whole

_ROOM = 512
"""Tokens of the context behind document, question and answer: what repeats a text in chunks takes less."""
_TURN = Turn(lambda words: tuple(range(5 + len(words.split()))), (1, 2, 3, 4, 5))
"""Of as many tokens as Llama 3.1's template and its tokenizer make of a next turn."""


def answer_all(
    engine: Engine, documents: Sequence[list[int]], questions: Sequence[list[int]], answer_tokens: int, shared: bool
) -> dict[str, Any]:
    """Every question about every document, greedily answered in exactly so many tokens: what it took.

    Raises:
        DocumentError: one of them cannot be answered.
    """
    sampling, before = SamplingParams(max_new_tokens=answer_tokens, ignore_eos=True), replace(engine.stats)
    started, peak, most = time.perf_counter(), 0, 0
    for place, document in enumerate(documents):
        reading = engine.read(document) if shared else None
        for number, question in enumerate(questions):
            ids = question if shared else document + question
            engine.add(Request(f"{place}:{number}", ids, sampling, reading=reading))
        if reading is not None:
            reading.close()
    while engine.has_work:
        for done in engine.step():
            if done.error is not None:
                raise done.error
        peak, most = max(peak, engine.pool_bytes_used), max(most, len(engine.scheduler.running))
    seconds, after = time.perf_counter() - started, engine.stats
    return {
        "documents": len(documents),
        "seconds": round(seconds, 2),
        "documents_per_hour": round(3600 * len(documents) / seconds, 1),
        "prompts_in_flight": most,
        "tokens_read": after.prompt_tokens - before.prompt_tokens,
        "prefill_s": round(after.prefill_s - before.prefill_s, 2),
        "decode_s": round(after.decode_s - before.decode_s, 2),
        "decode_steps": after.decode_steps - before.decode_steps,
        "pool_bytes_peak": peak,
    }


def policy_of(workload: Workload, name: str) -> KVPolicy:
    """What `--policy` names, told the words that it has a model repeat a text with."""
    policy = workload.policy("corm") if name == "corm" else KVPolicy.from_spec(with_name({"question": name}))
    assert policy is not None
    shape = workload.model
    return policy.for_model(Model(shape.num_layers, shape.num_kv_heads, turn=_TURN)) if policy.needs.turn else policy


def warm_up(engine: Engine, workload: Workload, questions: Sequence[list[int]], full: int, shared: bool) -> None:
    """A whole document, then as many answers at once as there will be, over short ones: what is compiled and captured
    is no part of the time. In this order, since graphs end when lists become longer than any before."""
    tokens = min(8, workload.output_tokens)
    short = random_prompts(workload, 1, max(1, full // len(questions)), min(256, workload.prompt_tokens))
    for documents in (random_prompts(workload, 2, 1), short):
        answer_all(engine, documents, questions, tokens, shared)


def measure(workload: Workload, model: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides of one workload, after a warm-up of each."""
    length = workload.prompt_tokens + options.question_tokens + workload.output_tokens
    config = {"prefill": options.prefill, "storage": options.storage, "max_sequences": options.max_sequences}
    config["max_model_len"] = length + _ROOM
    engine = Engine(model, policy_of(workload, options.policy), EngineConfig.parse(config))
    count = options.documents or options.waves * max(1, options.max_sequences // options.questions)
    apart = max(1, count // options.questions) if options.apart is None else options.apart
    documents = random_prompts(workload, 3, max(count, apart))
    questions = random_questions(workload, options.questions, options.question_tokens)
    found: dict[str, Any] = {
        "workload": workload.name,
        "questions": options.questions,
        "question_tokens": options.question_tokens,
        "answer_tokens": workload.output_tokens,
        "pool_bytes": engine.pool_bytes,
    }
    for side, number in (("shared", count), ("apart", apart)):
        if number:
            full = min(number * len(questions), options.max_sequences)
            warm_up(engine, workload, questions, full, side == "shared")
            found[side] = answer_all(engine, documents[:number], questions, workload.output_tokens, side == "shared")
            print(json.dumps({"workload": workload.name, side: found[side]}), flush=True)
    if apart:
        rates = [found[side]["documents_per_hour"] for side in ("shared", "apart")]
        found["shared_over_apart"] = round(rates[0] / rates[1], 3)
    return found


def read_beside(path: Path, device: str) -> list[dict[str, Any]]:
    """Rows of vLLM's record.

    Raises:
        SpecError: it cannot be read, or is of another device.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"--beside: {path}: {error}") from error
    if record.get("device") != device:
        raise SpecError(f"--beside: {path}: measured on {record.get('device')}, this is {device}")
    rows: list[dict[str, Any]] = record["rows"]
    return rows


def over_vllm(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], weights: str, storage: str) -> float | None:
    """How many times as many documents an hour as vLLM on the same questions with weights and cache in as many bits;
    None where no row has it."""
    asked = ("workload", "questions", "question_tokens")
    for row in rows:
        same_bits = ((row["quantization"] is None) == (weights == "stored")) and (
            (row["kv_dtype"] == "auto") == (storage == "model")
        )
        if same_bits and all(row.get(key) == found[key] for key in asked):
            times: float = found["shared"]["documents_per_hour"] / row["documents_per_hour"]
            return round(times, 3)
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", required=True, help="NAME[:ANSWER TOKENS], of one model")
    parser.add_argument("--questions", type=int, default=8, help="about each document (default: 8)")
    parser.add_argument("--question-tokens", type=int, default=48)
    parser.add_argument("--policy", choices=("corm", "unknown"), default="corm", help="what decides what is kept")
    parser.add_argument("--prefill", choices=("exact", "streaming"), default="exact")
    parser.add_argument("--weights", choices=("stored", "fp8"), default="stored")
    parser.add_argument("--storage", choices=("model", "fp8"), default="model")
    parser.add_argument("--max-sequences", type=int, default=512, help="questions in flight (default: 512)")
    parser.add_argument("--documents", type=int, help="over one reading each, whatever is in flight")
    parser.add_argument("--waves", type=int, default=2, help="else as many times what is in flight (default: 2)")
    parser.add_argument("--apart", type=int, help="documents asked apart, 0 for none; default: one for --questions")
    parser.add_argument("--beside", type=Path, metavar="FILE.json", help="of infra.measure.vllm on this card")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args(arguments)
    shapes = find_shapes(parser, options.workload)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    beside = read_beside(options.beside, device_name(device)) if options.beside else []
    about = {name: value for name, value in vars(options).items() if name not in ("workload", "output", "beside")}
    record = begin_record("readings", device=device_name(device), torch=torch.__version__, **about)
    model = random_model(shapes[0].model, shapes[0].torch_dtype, device, weights=options.weights)
    record["rows"] = []
    for shape in shapes:
        found = measure(shape, model, options)
        if (times := over_vllm(found, beside, options.weights, options.storage)) is not None:
            found["over_vllm"] = times
        record["rows"].append(found)
        write_whole(record, options.output)
        gc.collect()  # the engine and its pool
        if device.type == "cuda":
            torch.cuda.empty_cache()
    write_record(record, options.output)


if __name__ == "__main__":
    main()
