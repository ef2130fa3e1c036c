"""What a model answers through the engine, policy by policy, on texts that the reference model's training never saw.

    python -m infra.training.evaluate MODEL
    python -m infra.training.evaluate MODEL --cases 2 --lengths 512
    python -m infra.training.evaluate MODEL --policy 'short={name: corm, window: 64, recent: 64}'
    python -m infra.training.evaluate MODEL --suites needles '{name: key_value, haystack: my.parquet}'

Asks and answers as `corm-batch eval` does; its own are the recipe's held-out texts, perplexity over whole windows,
bytes by layer and after prefill, and the form of its records. Greedy, exact prefill, float32 on a CPU and bfloat16 on a
GPU. Writes a JSON record and, beside it, summaries to read; prints Markdown tables.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from corm_batch import Engine, KVPolicy, load_plugin
from corm_batch.data.yaml_text import load_yaml
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import DocumentError
from corm_batch.evaluation.answers import Answered
from corm_batch.evaluation.asking import Asked, answer
from corm_batch.evaluation.base import Suite
from corm_batch.evaluation.metrics import share
from corm_batch.text.tokenize import PromptTokenizer
from infra.training.cases import SUITES, draw_cases, prompt_tokenizer, read
from infra.training.compose import DOCUMENT
from infra.training.report import tables

_BUDGETED = (
    ("snapkv", "snapkv", "uniform"),
    ("snapkv pyramidkv", "snapkv", "pyramidkv"),
    ("snapkv adakv", "snapkv", "adakv"),
    ("h2o", "h2o", "uniform"),
    ("tova", "tova", "uniform"),
    ("keydiff", "keydiff", "uniform"),
    ("l2_norm", "l2_norm", "uniform"),
)
POLICIES: dict[str, Mapping[str, Any]] = {
    "full": {"name": "full"},
    "paper": {"name": "corm", "preset": "paper"},
    **{
        name: {"recent": 64, "budget": {"name": budget, "max_kept": 256}, "name": policy}
        for name, policy, budget in _BUDGETED
    },
    "streaming_llm": {"name": "streaming_llm", "sinks": 4, "recent": 252},
}
"""By the name the command line knows them by; those that hold 256 entries a head are as large as each other."""
WINDOWS = (2048, 8192)
"""Tokens of the perplexity windows."""
SAMPLES = 12
"""Summaries of each task to read."""
CONFIG = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "vocab_size", "max_position_embeddings",
)  # fmt: skip
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
CUDA_ENGINE: dict[str, Any] = {"max_sequences": 1024, "step_token_budget": 65536, "kv_memory": "32GiB"}
"""A small model on a large card: what limits it is the number of steps; three policies fit side by side."""


Outcome = tuple[Asked, Answered]
"""A case and what the engine made of it."""


def answers(engine: EngineCore, tokenizer: PromptTokenizer, cases: Sequence[Asked]) -> list[Outcome]:
    """Outcomes of the cases, in their order.

    Raises:
        DocumentError: a case has no answer.
    """
    found = {one.case: one for one in answer(engine, tokenizer, {case.key: case for case in cases}.values())}
    for one in found.values():
        if one.error is not None:
            raise DocumentError(one.error)
    return [(case, found[case.key]) for case in cases]


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Scores of answers to one task, or to several of one group: shares with their interval, means of the others."""
    found = [asked.suite.score(asked.case, answered.text) for asked, answered in outcomes]
    shares = outcomes[0][0].suite.shares
    scores: dict[str, Any] = {
        name: share(one[name] for one in found) if name in shares else fmean(one[name] for one in found)
        for name in found[0]
    }
    return {**scores, "ended": share(answered.finish_reason == "stop" for _, answered in outcomes)}


def cost(memory: Sequence[MemoryStats]) -> dict[str, Any]:
    """Means over the cases of what was kept at the end, overall and by layer, and shares of the bytes of all."""
    full = sum(m.kv_bytes_full for m in memory)
    prompts = sum(m.kv_bytes_full * m.prompt_tokens / (m.prompt_tokens + m.output_tokens - 1) for m in memory)
    masses = [m.evicted_attention_mass for m in memory if m.evicted_attention_mass is not None]
    layers = [[m.kept_ratio * kept / fmean(m.kept_per_layer) for kept in m.kept_per_layer] for m in memory]
    return {
        "prompt_tokens": fmean(m.prompt_tokens for m in memory),
        "kept_ratio": fmean(m.kept_ratio for m in memory),
        "kept_by_layer": [fmean(layer) for layer in zip(*layers, strict=True)],
        "kv_bytes_full": full,
        "freed_after_prefill": 1 - sum(m.kv_bytes_after_prefill for m in memory) / prompts,
        "freed_at_peak": 1 - sum(m.kv_bytes_peak for m in memory) / full,
        "evicted_attention_mass": fmean(masses) if len(masses) == len(memory) else None,
        "preemptions": sum(m.preemptions for m in memory),
    }


def run_group(engine: EngineCore, tokenizer: PromptTokenizer, group: str, cases: Sequence[Asked]) -> dict[str, Any]:
    """Scores by task, the cost, and the first summaries of each task to read."""
    started = time.monotonic()
    outcomes = answers(engine, tokenizer, cases)
    seconds = time.monotonic() - started
    print(f"{group}: {len(cases)} cases in {seconds:.1f} s", flush=True)
    tasks: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        tasks.setdefault(outcome[0].case.task, []).append(outcome)
    samples = [o for found in tasks.values() for o in found[:SAMPLES]] if group == "summaries" else []
    if group.startswith("facts"):
        tasks["all"] = outcomes
    return {
        "seconds": round(seconds, 1),
        "scores": {task: score(found) for task, found in tasks.items()},
        "memory": cost([answered.memory for _, answered in outcomes]),
        "samples": [
            {
                "task": asked.case.task,
                "document": asked.case.document[:1000],
                "expected": asked.case.answers,
                "got": answered.text,
            }
            for asked, answered in samples
        ],
    }


def run_policy(
    asked: argparse.Namespace, policy: KVPolicy, tokenizer: PromptTokenizer, cases: Sequence[Asked]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every group of cases through one engine, each as it is done."""
    dtype, settings = DTYPES[asked.device], CUDA_ENGINE if asked.device == "cuda" else {}
    ends = tokenizer.end_token_ids
    engine = Engine.from_pretrained(
        asked.model, policy=policy, dtype=dtype, device=asked.device, end_token_ids=ends, **settings
    )
    groups: dict[str, list[Asked]] = {}
    for case in cases:
        groups.setdefault(case.case.group, []).append(case)
    for group, found in groups.items():
        yield group, run_group(engine, tokenizer, group, found)
    del engine
    gc.collect()  # its pages: the next policy's would not fit beside them
    torch.cuda.empty_cache()


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: Tokenizer, count: int, length: int) -> dict[str, float]:
    """Of the first `count` books, over whole windows of `length` tokens that start as the model's training texts do."""
    document, losses = tokenizer.token_to_id(DOCUMENT), list[float]()
    start = model.config.bos_token_id if document is None else document
    for row in [row for row in read("books") if row["kind"] == "perplexity"][:count]:
        book = tokenizer.encode(row["text"], add_special_tokens=False).ids
        for first in range(0, len(book) - length + 2, length - 1):
            ids = torch.tensor([[start, *book[first : first + length - 1]]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
    found = {"perplexity": math.exp(fmean(losses)), "windows": len(losses)}
    print(f"perplexity at {length} tokens: {found}", flush=True)
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--cases", type=int, default=100, help="of each task and length; five times as many questions")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192], help="tokens, answer included")
    parser.add_argument("--policy", action="append", default=[], metavar="NAME=YAML", help="one more policy")
    parser.add_argument("--policies", nargs="*", default=["full", "paper"], choices=list(POLICIES))
    parser.add_argument("--suites", nargs="+", default=list(SUITES), metavar="NAME|YAML", help="what is asked")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="a file with more plug-ins")
    parser.add_argument("--groups", nargs="+", help="only these groups of cases, such as 'squad planted'")
    parser.add_argument("--output", type=Path, default=Path("evaluation.json"))
    return parser.parse_args()


def suites(asked: Sequence[str]) -> list[Suite]:
    """Suites by name, with the evaluation data, or as YAML with settings of their own.

    Raises:
        SpecError: no such suite, or a wrong setting.
    """
    given = [load_yaml(one, "--suites") for one in asked]
    return [Suite.from_spec(SUITES.get(one, {"name": one}) if isinstance(one, str) else one) for one in given]


def write(path: Path, record: Mapping[str, Any], samples: Mapping[str, Any]) -> None:
    """The record as it is by now, and beside it the summaries to read."""
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(samples, indent=2, ensure_ascii=False) + "\n"
    path.with_suffix(".samples.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Evaluate, write the record and print it."""
    asked = arguments()
    for path in asked.plugin:
        load_plugin(path)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    specs = {name: POLICIES[name] for name in asked.policies} | {
        name: load_yaml(policy, "--policy") for name, _, policy in (p.partition("=") for p in asked.policy)
    }
    policies = {name: KVPolicy.from_spec(spec) for name, spec in specs.items()}
    tokenizer = Tokenizer.from_file(f"{asked.model}/tokenizer.json")
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=DTYPES[asked.device], attn_implementation="sdpa")
    model.to(asked.device).eval()
    context = model.config.max_position_embeddings
    windows = {str(size): perplexity(model, tokenizer, asked.cases, size) for size in WINDOWS if size <= context}
    results: dict[str, Any] = {"perplexity": windows, "policies": {}}
    chat = prompt_tokenizer(asked.model)
    drawn = list(draw_cases(chat, suites(asked.suites), asked.lengths, asked.cases))
    cases = [case for case in drawn if len(case.prompt) + case.case.max_new_tokens <= context]
    print(f"{len(cases)} cases; {len(drawn) - len(cases)} more do not fit {context} tokens", flush=True)
    cases = [case for case in cases if not asked.groups or case.case.group in asked.groups]
    record = {
        "command": shlex.join(["python", "-m", "infra.training.evaluate", *sys.argv[1:]]),
        "model": {name: getattr(model.config, name) for name in CONFIG} | {"parameters": model.num_parameters()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else f"cpu {platform.machine()}",
        "dtype": DTYPES[asked.device],
        "policies": specs,
        "results": results,
    }
    samples: dict[str, list[dict[str, Any]]] = {}
    write(asked.output, record, samples)
    for name, policy in policies.items():
        print(f"policy {name}", flush=True)
        for group, found in run_policy(asked, policy, chat, cases):
            samples.setdefault(name, []).extend(found.pop("samples"))
            results["policies"].setdefault(name, {})[group] = found
            write(asked.output, record, samples)
    print(*tables(results), sep="\n")


if __name__ == "__main__":
    main()
