"""What reading a document once is worth: several questions about each, over one reading and each with one of its own.

    python -m infra.measure.readings --workload llama3.1-8b-16k:16 --questions 8 --answer 64 --output RESULT.json

A workload is NAME:DOCUMENTS with the names of `corm-batch bench`; weights are random and drawn on the card, prompts are
random tokens, and what a head keeps is the workload's bound. Both sides run on one engine, one after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corm_batch.bench.bench import device_name
from corm_batch.bench.engine_run import random_prompts
from corm_batch.bench.model import random_model
from corm_batch.bench.workload import Workload, find_workload
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from infra.measure.record import begin_record, write_record


def answer_all(
    engine: Engine, documents: Sequence[list[int]], questions: Sequence[list[int]], answer_tokens: int, shared: bool
) -> dict[str, Any]:
    """Every question about every document, greedily answered in exactly so many tokens: what it took.

    Raises:
        DocumentError: one of them cannot be answered.
    """
    sampling, before = SamplingParams(max_new_tokens=answer_tokens, ignore_eos=True), engine.stats.prompt_tokens
    started, peak = time.perf_counter(), 0
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
        peak = max(peak, engine.pool_bytes_used)
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 2),
        "documents_per_hour": round(3600 * len(documents) / seconds, 1),
        "tokens_read": engine.stats.prompt_tokens - before,
        "pool_bytes_peak": peak,
    }


def measure(workload: Workload, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Both sides of one workload, after a warm-up of each."""
    model = random_model(workload.model, workload.torch_dtype, device, weights=options.weights)
    policy = workload.policy("corm")
    assert policy is not None
    length = workload.prompt_tokens + options.question_tokens + options.answer
    config = {"max_model_len": length, "prefill": options.prefill, "storage": options.storage}
    engine = Engine(model, policy, EngineConfig.parse({**config, "max_sequences": options.max_sequences}))
    documents = random_prompts(workload, 3, workload.documents)
    drawn = np.random.default_rng(4).integers(
        workload.model.vocab_size, size=(options.questions, options.question_tokens)
    )
    questions: list[list[int]] = drawn.tolist()
    found: dict[str, Any] = {
        "workload": workload.name,
        "documents": workload.documents,
        "pool_bytes": engine.pool_bytes,
    }
    for side, shared in (("shared", True), ("apart", False)):
        answer_all(engine, random_prompts(workload, 1, 1), questions, min(8, options.answer), shared)
        found[side] = answer_all(engine, documents, questions, options.answer, shared)
    found["shared_over_apart"] = round(found["apart"]["seconds"] / found["shared"]["seconds"], 3)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", required=True, metavar="NAME:DOCUMENTS")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--question-tokens", type=int, default=48)
    parser.add_argument("--answer", type=int, default=64, help="tokens of every answer")
    parser.add_argument("--prefill", choices=("exact", "streaming"), default="exact")
    parser.add_argument("--weights", choices=("stored", "fp8"), default="stored")
    parser.add_argument("--storage", choices=("model", "fp8"), default="model")
    parser.add_argument("--max-sequences", type=int, default=256)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {name: value for name, value in vars(options).items() if name not in ("workload", "output")}
    record = begin_record("readings", device=device_name(device), torch=torch.__version__, **about)
    asked = [workload.split(":") for workload in options.workload]
    record["rows"] = [measure(find_workload(name, int(documents)), options, device) for name, documents in asked]
    write_record(record, options.output)


if __name__ == "__main__":
    main()
