"""Measure what a policy frees and what it costs, on the quick start's documents and on the needle cases.

    python -m infra.measure.settings                          # full, the paper's setting, the quick start's own
    python -m infra.measure.settings --policy '{"name": "corm", "preset": "paper", "window": 64,"recent": 64, "tau": 4}'
    python -m infra.measure.settings --every 4                # every fourth document, to try things out

Writes infra/measure/results/quickstart_settings.json and prints it as a Markdown table. float32, greedy, exact prefill.
An answer counts when it equals what is expected, blanks at the ends aside. Bytes are summed over the documents before
they are divided, so a long document weighs as much as it costs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from corm_batch import Completion, Engine, Request, SamplingParams
from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "jobs/quickstart"
DATASETS = {"quick start": QUICKSTART / "documents.parquet", "needles": ROOT / "tests/jobs/needles.parquet"}
LISTS = {"records", "multi_value"}
"""Kinds that ask for several values; every other kind asks for a single fact."""
SAMPLING = SamplingParams(max_new_tokens=48)

Row = Mapping[str, str]


def read_rows(path: Path, every: int = 1) -> list[Row]:
    """Every `every`-th row of a Parquet file of questions that have one right answer."""
    rows: list[Row] = [row for row in pq.read_table(path).to_pylist() if row["expected"] is not None]
    return rows[::every]


def encode(rows: Iterable[Row], tokenizer: PromptTokenizer, max_tokens: int) -> dict[str, tuple[int, ...]]:
    """doc_id to prompt, without those that leave no room for an answer."""
    prompts = {row["doc_id"]: tokenizer.encode(Prompt(text=row["text"], instruction=row["question"])) for row in rows}
    return {doc_id: ids for doc_id, ids in prompts.items() if len(ids) + SAMPLING.max_new_tokens <= max_tokens}


def answer(policy: Mapping[str, Any], prompts: Mapping[str, Sequence[int]]) -> dict[str, Completion]:
    """What the engine makes of every prompt under one policy."""
    engine = Engine.from_pretrained(str(QUICKSTART / "model"), policy=policy, dtype="float32", device="cpu")
    requests = [Request(id=doc_id, token_ids=ids, sampling=SAMPLING) for doc_id, ids in prompts.items()]
    return {completion.id: completion for completion in engine.run(requests)}


def share(part: float, whole: float) -> float:
    """part / whole with four digits."""
    return round(part / whole, 4)


def summarise(rows: Iterable[Row], done: Mapping[str, Completion], tokenizer: PromptTokenizer) -> dict[str, Any]:
    """Exact answers per kind and the bytes of one run over one data set."""
    rows = [row for row in rows if row["doc_id"] in done]
    hits: dict[str, list[bool]] = {}
    for row in rows:
        hits.setdefault(row["kind"], []).append(
            tokenizer.decode(done[row["doc_id"]].token_ids) == row["expected"].strip()
        )
    single = [hit for kind, kind_hits in hits.items() if kind not in LISTS for hit in kind_hits]
    memory = [done[row["doc_id"]].memory for row in rows]
    full_bytes = sum(m.kv_bytes_full for m in memory)
    masses = [m.evicted_attention_mass for m in memory if m.evicted_attention_mass is not None]
    return {
        "documents": len(rows),
        "prompt_tokens": sum(m.prompt_tokens for m in memory),
        "single_facts": len(single),
        "single_facts_exact": sum(single),
        "exact_by_kind": {kind: f"{sum(kind_hits)}/{len(kind_hits)}" for kind, kind_hits in sorted(hits.items())},
        "kept_ratio": share(sum(m.kept_ratio * m.kv_bytes_full for m in memory), full_bytes),
        "kv_bytes_full": full_bytes,
        "kv_bytes_peak": sum(m.kv_bytes_peak for m in memory),
        "freed_at_peak": share(full_bytes - sum(m.kv_bytes_peak for m in memory), full_bytes),
        "freed_at_end": share(full_bytes - sum(m.kv_bytes_final for m in memory), full_bytes),
        "evicted_attention_mass": share(sum(masses), len(masses)) if len(masses) == len(memory) else None,
    }


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """One table row per setting and data set."""
    lines = [
        "| setting | data | documents | kept | KV bytes full → peak | freed | single facts exact | lists exact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        lists = ", ".join(f"{kind} {hits}" for kind, hits in result["exact_by_kind"].items() if kind in LISTS)
        lines.append(
            f"| {result['setting']} | {result['data']} | {result['documents']} | {result['kept_ratio']:.1%} "
            f"| {result['kv_bytes_full'] / 2**20:.0f} → {result['kv_bytes_peak'] / 2**20:.0f} MiB "
            f"| {result['freed_at_peak']:.1%} | {result['single_facts_exact']}/{result['single_facts']} | {lists} |"
        )
    return "\n".join(lines)


def settings(extra: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Name to policy: the three the README shows, then those asked for."""
    chosen = yaml.safe_load((QUICKSTART / "job.yaml").read_text(encoding="utf-8"))["policy"]
    paper = {"name": "corm", "preset": "paper"}
    asked = {text: json.loads(text) for text in extra}
    return {"full": {"name": "full"}, "paper": paper, "quick start": chosen} | asked


def main() -> None:
    """Run every setting over both data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", default=[], help="one more policy, as JSON")
    parser.add_argument("--every", type=int, default=1, help="take every n-th document")
    parser.add_argument("--output", type=Path, default=ROOT / "infra/measure/results/quickstart_settings.json")
    arguments = parser.parse_args()
    tokenizer = PromptTokenizer.from_pretrained(str(QUICKSTART / "model"), document_role="document")
    results: list[dict[str, Any]] = []
    for data, path in DATASETS.items():
        rows = read_rows(path, arguments.every)
        prompts = encode(rows, tokenizer, max_tokens=8192)
        for name, policy in settings(arguments.policy).items():
            summary = summarise(rows, answer(policy, prompts), tokenizer)
            results.append({"setting": name, "policy": policy, "data": data, **summary})
            print(markdown(results[-1:]).splitlines()[-1], flush=True)
    record = {"command": shlex.join(["python", *sys.argv]), "results": results}
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"\n{markdown(results)}")


if __name__ == "__main__":
    main()
