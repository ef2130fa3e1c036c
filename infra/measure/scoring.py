"""Time what a verification costs: scoring a long prompt's answer, beside prefilling the same prompt.

    python -m infra.measure.scoring

The quick start's model and prompts of its documents, on a CPU, one at a time; seconds are those of one thread, the
least of two runs, and `against_exact` is over the exact prefill of the same prompt without eviction. Writes
infra/measure/results/scoring.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from corm_batch import Engine, Request, SamplingParams
from corm_batch.engine.engine import EngineCore
from infra.measure.record import begin_record, write_record

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "jobs/quickstart/model"
FULL, CORM = {"name": "full"}, {"name": "corm", "window": 128, "recent": 16, "tau": 64.0, "reach": 48}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "exact prefill, no eviction": (FULL, {"prefill": "exact"}, {}),
    "exact prefill, corm": (CORM, {"prefill": "exact"}, {}),
    "streaming prefill, corm": (CORM, {"prefill": "streaming"}, {}),
    "score, beside exact prefill": (CORM, {"prefill": "exact"}, {"uncompressed": True}),
    "score, beside streaming prefill": (CORM, {"prefill": "streaming"}, {"uncompressed": True}),
}


def prompt(num_tokens: int) -> list[int]:
    """The quick start's documents, one behind the other."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = pq.read_table(ROOT / "jobs/quickstart/documents.parquet", columns=["text"]).column("text").to_pylist()
    ids: list[int] = []
    for text in texts:
        ids += tokenizer("<|document|>" + text, add_special_tokens=False)["input_ids"]
    return ids[:num_tokens]


def least_seconds(engine: EngineCore, request: Request, times: int) -> float:
    """The shortest of a few runs."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        list(engine.run([request]))
        seconds.append(time.process_time() - started)
    return min(seconds)


def measure(num_tokens: int, answer_tokens: int, times: int) -> list[dict[str, Any]]:
    """One row a way; a prefill ends with the first token, a score with the whole answer."""
    ids, rows, exact = prompt(num_tokens + answer_tokens), list[dict[str, Any]](), 0.0
    for name, (policy, config, fields) in WAYS.items():
        engine = Engine.from_pretrained(str(MODEL), policy=policy, dtype="float32", device="cpu", **config)
        if fields:
            fields = {**fields, "answer_ids": ids[num_tokens:]}
        request = Request("a", ids[:num_tokens], SamplingParams(max_new_tokens=1), **fields)
        seconds = least_seconds(engine, request, times)
        exact = exact or seconds
        rows.append({"what": name, "seconds": round(seconds, 3), "against_exact": round(seconds / exact, 2)})
    return rows


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 3000])
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "infra/measure/results/scoring.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # what the second one waits for would count
    record = begin_record("scoring", dtype="float32", answer_tokens=arguments.answer_tokens)
    record["results"] = {
        str(number): measure(number, arguments.answer_tokens, arguments.times) for number in arguments.tokens
    }
    write_record(record, arguments.output)


if __name__ == "__main__":
    main()
