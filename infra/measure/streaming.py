"""Measure what the chunk size of streaming prefill changes: entries kept and which, against one token at a time.

    python -m infra.measure.streaming --device cuda

A chunk of one token is the literal algorithm (tests/engine/test_corm_oracle.py holds it against the paper's, entry for
entry). With larger chunks the attention inside a chunk still sees entries that would have expired by then. Writes
infra/measure/results/streaming_chunks.json and prints it as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow.parquet as pq
from transformers import AutoConfig, AutoTokenizer

from corm_batch import Completion, Engine, Request, SamplingParams

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "jobs/quickstart/model"
POLICIES: dict[str, dict[str, object]] = {
    "w = r = 256, tau 1 (the paper)": {"name": "corm", "preset": "paper"},
    "w = r = 32, tau 4": {"name": "corm", "preset": "paper", "window": 32, "recent": 32, "tau": 4.0},
}
CHUNKS = (1, 16, 128, 512)
NUM_DOCUMENTS, NUM_TOKENS = 2, 1536


def prompts() -> list[list[int]]:
    """The beginnings of a few documents of the quick start."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = pq.read_table(ROOT / "jobs/quickstart/documents.parquet", columns=["text"]).column("text").to_pylist()
    ids = (
        tokenizer("<|document|>" + text[: 5 * NUM_TOKENS], add_special_tokens=False)["input_ids"][:NUM_TOKENS]
        for text in texts
    )
    return [prompt for prompt in ids if len(prompt) == NUM_TOKENS][:NUM_DOCUMENTS]


def num_lists() -> int:
    """Lists of entries a document has: layers times key-value heads."""
    config = AutoConfig.from_pretrained(MODEL)
    return int(config.num_hidden_layers * config.num_key_value_heads)


def kept(completion: Completion) -> set[tuple[int, int, int]]:
    """(layer, kv head, token) of every entry held at the end."""
    assert completion.kept_positions is not None
    return {
        (i, j, p) for i, layer in enumerate(completion.kept_positions) for j, head in enumerate(layer) for p in head
    }


def answers(device: str, policy: dict[str, object], prefill: str, chunk_size: int) -> list[set[tuple[int, int, int]]]:
    """What each document keeps of its prompt."""
    engine = Engine.from_pretrained(
        str(MODEL), policy=policy, dtype="float32", device=device, prefill=prefill, chunk_size=chunk_size
    )
    sampling = SamplingParams(max_new_tokens=1)
    requests = [Request(str(i), ids, sampling, return_kept_positions=True) for i, ids in enumerate(prompts())]
    completions = {completion.id: completion for completion in engine.run(requests)}
    return [kept(completions[request.id]) for request in requests]


def measure(device: str) -> list[dict[str, object]]:
    """One row a policy and chunk size, and one for exact prefill."""
    rows: list[dict[str, object]] = []
    for name, policy in POLICIES.items():
        literal = answers(device, policy, "streaming", 1)
        for prefill, chunk in [*(("streaming", chunk) for chunk in CHUNKS), ("exact", NUM_TOKENS)]:
            ours = literal if chunk == 1 else answers(device, policy, prefill, chunk)
            both = sum(len(a & b) for a, b in zip(ours, literal, strict=True))
            either = sum(len(a | b) for a, b in zip(ours, literal, strict=True))
            rows.append(
                {
                    "policy": name,
                    "prefill": prefill,
                    "chunk_size": chunk,
                    "kept_ratio": round(sum(map(len, ours)) / (NUM_DOCUMENTS * NUM_TOKENS * num_lists()), 4),
                    "size_against_one_token": round(sum(map(len, ours)) / sum(map(len, literal)), 4),
                    "jaccard_with_one_token": round(both / either, 4),
                }
            )
    return rows


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "infra/measure/results/streaming_chunks.json")
    arguments = parser.parse_args()
    rows = measure(arguments.device)
    record = {
        "command": f"python -m infra.measure.streaming --device {arguments.device}",
        "documents": NUM_DOCUMENTS,
        "tokens": NUM_TOKENS,
        "dtype": "float32",
        "rows": rows,
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
