"""Measure the arithmetic's noise in verification: the full cache's own answers, held against the full cache.

    python -m infra.measure.score_noise                                      # the quick start's model and documents
    python -m infra.measure.score_noise --job jobs/released/job.yaml         # SmolLM2-135M-Instruct, once it is fetched
    python -m infra.measure.score_noise --dtype bfloat16 --device cuda

Every document is answered without eviction, greedily, token by token, and its answer is then scored in one pass. In
exact arithmetic every gap would be 0. What is found instead are ties that another order of the same sums decides
otherwise, and `corm_batch.audit.config.MIN_GAP` has to lie above all of them. Writes
infra/measure/results/score_noise.json, in which results of other models, number formats and devices stay.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corm_batch import Engine, JobSpec, Request, SamplingParams
from corm_batch.pipeline.model import load_tokenizer, model_path
from corm_batch.tasks.base import Prompt
from infra.measure.record import begin_record, write_record

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "infra/measure/results/score_noise.json"


def prompts(spec: JobSpec, every: int, max_tokens: int) -> dict[str, tuple[int, ...]]:
    """doc_id to the prompt of every `every`-th document that fits."""
    tokenizer = load_tokenizer(spec.model, model_path(spec.model))
    column = spec.task.source_columns[0]
    found = {}
    for split in spec.source.splits([column]):
        for document in islice(spec.source.read(split, [column]), 0, None, every):
            if document.text:
                found[document.doc_id] = tokenizer.encode(Prompt(document.text, document.columns[column]))
    return {doc_id: ids for doc_id, ids in found.items() if len(ids) <= max_tokens}


def measure(spec: JobSpec, dtype: str, device: str, every: int, max_tokens: int) -> dict[str, Any]:
    """Gaps of one model in one number format: how many tokens have one, and how large they are."""
    engine: Any = Engine.from_pretrained(
        model_path(spec.model), policy={"name": "full"}, dtype=dtype, device=device, kv_memory=2 * 2**30
    )
    sampling = SamplingParams(max_new_tokens=spec.task.max_new_tokens)
    asked = prompts(spec, every, max_tokens)
    answers = list(engine.run([Request(doc_id, ids, sampling) for doc_id, ids in asked.items()]))
    scoring = [
        Request(answer.id, asked[answer.id], sampling, answer_ids=answer.token_ids, uncompressed=True)
        for answer in answers
        if answer.error is None
    ]
    gaps, drift = list[float](), list[float]()
    kept = {answer.id: answer.mean_logprob for answer in answers}
    for done in engine.run(scoring):
        gaps += (np.array(done.scores.best_logprobs) - np.array(done.scores.logprobs)).tolist()
        drift.append(abs(float(np.mean(done.scores.logprobs)) - kept[done.id]))
    return {
        "model": Path(spec.model.name).name,
        "dtype": dtype,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "documents": len(scoring),
        "prompt_tokens": sum(map(len, asked.values())),
        "answer_tokens": len(gaps),
        "tokens_with_a_gap": sum(gap > 0 for gap in gaps),
        "largest_gap": max(gaps),
        "largest_drift_of_mean_logprob": max(drift),
    }


def main() -> None:
    """Measure one model in one or several number formats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", default="jobs/quickstart/job.yaml", help="whose model, documents and questions")
    parser.add_argument("--model", help="another model than the job's")
    parser.add_argument("--dtype", action="append", help="float32, bfloat16, float16; may be given again")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--every", type=int, default=1, help="take every n-th document")
    parser.add_argument("--max-tokens", type=int, default=4000, help="leave longer prompts out")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    spec = JobSpec.load(arguments.job, [f"model.name={arguments.model}"] if arguments.model else [])
    for dtype in arguments.dtype or ["float32", "bfloat16"]:
        record = begin_record("score_noise")
        results = json.loads(arguments.output.read_text())["results"] if arguments.output.exists() else []
        found = measure(spec, dtype, arguments.device, arguments.every, arguments.max_tokens)
        same = {name: found[name] for name in ("model", "dtype", "device")}
        results = [one for one in results if {name: one[name] for name in same} != same] + [found]
        write_record({**record, "results": results}, arguments.output)


if __name__ == "__main__":
    main()
