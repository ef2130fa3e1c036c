"""Measure vLLM on the workloads of `corm-batch bench`, so that both stand side by side.

    python -m infra.measure.vllm --workload llama3.1-8b-4k --workload llama3.1-8b-16k --output FILE.json
    python -m infra.measure.vllm --workload llama3.1-8b-4k --quantization fp8 --kv-dtype fp8 --output FILE.json
    python -m infra.measure.vllm --workload llama3.1-8b-16k:64 --questions 8 --output FILE.json

Needs vLLM, which nothing else here needs (0.22.1 was measured; --quantization fp8 also wants compressed-tensors), and a
GPU with nothing else on it. Same shapes (NAME[:ANSWER TOKENS]), random weights and prompts that share nothing, answers
of as many greedy tokens; prefix caching off, CUDA graphs for batches up to the largest. As many documents as its own
pool holds run at once, and --waves times as many are answered. A file that holds rows of the same device and vLLM gets
these beside them, so that runs in several forms are one record. `fp8-stored` is a checkpoint whose config says that its
weights are in 8 bits: they are made in that form, where `fp8` quantises bfloat16 ones as they load, which have to fit
the card first.

With --questions a document is asked several things, each a prompt of the document and the question, and prefix caching
is on. All prompts of a document are queued at once, the first right before the others: vLLM schedules in that order,
and a block can be hit from the step on in which it is scheduled, so that the first prompt reads the document and the
others read their question (`tokens_cached` says whether they did). The pool is counted with a document's blocks once;
its blocks stay while it has an answer to come, since the next document is queued when all of one's are done. Documents
an hour are those with all their answers.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from corm_batch.bench.bench import device_name
from corm_batch.bench.engine_run import random_prompts
from corm_batch.bench.workload import LlamaShape, Workload
from infra.measure.questions import find_shapes, random_questions

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1",
    # Kernels for sampling and quantised weights from optional packages, which a small installation does without.
    "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_USE_DEEP_GEMM": "0",
}  # fmt: skip
GRAPH_SIZES = [1, 2, 4, 7, 8, 14, 16, 24, 28, 32, 40, 48, 56, 64, *range(80, 257, 16), *range(288, 513, 32)]
STEP_TOKENS, MOST, MEMORY = 16384, 512, 0.95
"""Prompt tokens of a step, prompts at once, share of the GPU's memory."""
WHOLE: list[list[int]] = [[]]
"""What a document is asked that is a whole prompt by itself."""


class Answered(NamedTuple):
    """What it took: seconds, (time, prompts that got a token) of every step, documents that ran at once at most, and
    tokens of prompts that were found in the cache."""

    seconds: float
    steps: list[tuple[float, int]]
    documents_at_once: int
    tokens_cached: int


def hf_config(shape: LlamaShape, max_tokens: int, stored_fp8: bool = False) -> dict[str, Any]:
    """The model as transformers' config.json; `stored_fp8`: weights in 8 bits, inputs quantised as they come."""
    stored = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}} if stored_fp8 else {}
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
        "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
        "num_hidden_layers": shape.num_layers, "hidden_size": shape.hidden_size, "tie_word_embeddings": False,
        "num_attention_heads": shape.num_heads, "num_key_value_heads": shape.num_kv_heads, "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size, "vocab_size": shape.vocab_size, "rope_theta": shape.rope_theta,
        "max_position_embeddings": max_tokens, **stored,
    }  # fmt: skip


def start(
    shape: LlamaShape, max_tokens: int, quantization: str | None, kv_dtype: str, prefix_caching: bool = False
) -> Any:
    """vLLM's engine with random weights."""
    from vllm import LLM

    stored = quantization == "fp8-stored"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(hf_config(shape, max_tokens, stored)), encoding="utf-8")
        llm = LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=max_tokens,
            quantization=None if stored else quantization, kv_cache_dtype=kv_dtype,
            gpu_memory_utilization=MEMORY, max_num_batched_tokens=STEP_TOKENS, max_num_seqs=MOST,
            enable_prefix_caching=prefix_caching,
            compilation_config={"cudagraph_capture_sizes": GRAPH_SIZES, "max_cudagraph_capture_size": MOST},
        )  # fmt: skip
    return llm.llm_engine


def answer(
    engine: Any,
    documents: Sequence[list[int]],
    questions: Sequence[list[int]],
    output_tokens: int,
    at_once: int,
) -> Answered:
    """Answer every question about every document, so many documents at once.

    Raises:
        RuntimeError: not every prompt got all of its tokens.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=output_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    waiting, unanswered, steps = list(range(len(documents)))[::-1], Counter[str](), []
    most = cached = 0
    started = time.perf_counter()
    while waiting or unanswered:
        while waiting and len(unanswered) < at_once:
            place = waiting.pop()
            unanswered[str(place)] = len(questions)
            for number, question in enumerate(questions):
                prompt = {"type": "token", "prompt_token_ids": documents[place] + question}
                engine.add_request(f"{place}:{number}", prompt, sampling)
        most = max(most, len(unanswered))
        outputs = engine.step()
        for done in (output for output in outputs if output.finished):
            place, _, _ = done.request_id.partition(":")
            cached += done.num_cached_tokens or 0
            unanswered[place] -= 1
            if not unanswered[place]:
                del unanswered[place]
        if made := sum(len(output.outputs[0].token_ids) for output in outputs):
            steps.append((time.perf_counter() - started, made))
    seconds = time.perf_counter() - started
    tokens, expected = sum(made for _, made in steps), len(documents) * len(questions) * output_tokens
    if tokens != expected:
        raise RuntimeError(f"{tokens} tokens came, {expected} were asked for")
    return Answered(seconds, steps, most, cached)


def step_ms(steps: Sequence[tuple[float, int]]) -> tuple[int, float | None]:
    """The largest batch, and the median milliseconds between two steps of it; None where there were no two."""
    most = max(made for _, made in steps)
    gaps = [1e3 * (b[0] - a[0]) for a, b in pairwise(steps) if a[1] == b[1] == most]
    return most, round(statistics.median(gaps), 3) if gaps else None


def pool_documents(cache: Any, workload: Workload, questions: Sequence[list[int]]) -> int:
    """Documents that fit the pool with every answer to what is asked; of several prompts the document's whole blocks
    count once."""
    length = workload.prompt_tokens + len(questions[0]) + workload.output_tokens
    shared = workload.prompt_tokens // cache.block_size if len(questions) > 1 else 0
    blocks = shared + len(questions) * (-(-length // cache.block_size) - shared)
    fit: int = (cache.num_gpu_blocks - 1) // blocks
    return max(1, min(MOST // len(questions), fit))


def measure(
    engine: Any, workload: Workload, questions: Sequence[list[int]], documents: int | None, waves: int, seed: int
) -> dict[str, Any]:
    """Prefill a few documents, then answer so many, or `waves` times what the pool holds; drawn with this seed and the
    next, so that the engine has seen none of them before.

    Raises:
        RuntimeError: more was found in the cache than a document's own prompts share.
    """
    cache = engine.vllm_config.cache_config
    fit, few = pool_documents(cache, workload, questions), max(1, (1 << 16) // workload.prompt_tokens)
    alone = answer(engine, random_prompts(workload, seed, few), WHOLE, 1, few)
    prompts = random_prompts(workload, seed + 1, documents or waves * fit)
    found = answer(engine, prompts, questions, workload.output_tokens, min(len(prompts), fit))
    num_prompts, whole_blocks = len(prompts) * len(questions), workload.prompt_tokens // cache.block_size
    if found.tokens_cached > (num_prompts - len(prompts)) * whole_blocks * cache.block_size:
        raise RuntimeError(
            f"{found.tokens_cached} tokens were found in the cache, more than a document's prompts share"
        )
    most, decode_ms = step_ms(found.steps)
    asked = {
        "questions": len(questions),
        "question_tokens": len(questions[0]),
        "answer_tokens": workload.output_tokens,
        "prompts_in_flight": most,
        "tokens_read": num_prompts * (workload.prompt_tokens + len(questions[0])) - found.tokens_cached,
        "tokens_cached": found.tokens_cached,
    }
    return {
        "workload": workload.name,
        "documents": len(prompts),
        "documents_in_flight": found.documents_at_once,
        "pool_documents": fit,
        "pool_tokens": (cache.num_gpu_blocks - 1) * cache.block_size,
        "wall_s": round(found.seconds, 3),
        "documents_per_hour": round(3600 * len(prompts) / found.seconds, 1),
        "prefill_s_per_document": round(alone.seconds / few, 4),
        "decode_ms_per_step": decode_ms,
        **(asked if len(questions) > 1 else {}),
    }


def gathered(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record with the rows that the file has of this device and engine, unless they are measured anew."""
    if not path.exists():
        return record
    before, mine = json.loads(path.read_text(encoding="utf-8")), [_measured(row) for row in record["rows"]]
    if any(before.get(key) != record[key] for key in ("device", "engine")):
        return record
    return {**record, "rows": [row for row in before["rows"] if _measured(row) not in mine] + record["rows"]}


def _measured(row: dict[str, Any]) -> tuple[Any, ...]:
    asked = row.get("questions"), row.get("question_tokens")
    return row["workload"], row.get("quantization"), row.get("kv_dtype", "auto"), *asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one model's workloads, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", required=True, help="NAME[:ANSWER TOKENS], of one model")
    parser.add_argument("--questions", type=int, help="about each document, two or more; default: none is apart")
    parser.add_argument("--question-tokens", type=int, default=48)
    parser.add_argument("--quantization", choices=("fp8", "fp8-stored"), help="default: bfloat16 weights")
    parser.add_argument("--kv-dtype", choices=("auto", "fp8"), default="auto", help="auto: a bfloat16 cache")
    parser.add_argument("--documents", type=int, help="of each workload, whatever the pool holds")
    parser.add_argument("--waves", type=int, default=2, help="else as many times what the pool holds (default: 2)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args(arguments)
    workloads = find_shapes(parser, options.workload)
    if options.questions is not None and (options.questions < 2 or options.question_tokens < 1):
        parser.error("--questions: two or more, each of a token or more")
    os.environ.update(ENVIRONMENT)
    import vllm

    several = options.questions is not None
    questions = random_questions(workloads[0], options.questions, options.question_tokens) if several else WHOLE
    longest = max(workload.prompt_tokens + workload.output_tokens for workload in workloads) + len(questions[0])
    engine = start(workloads[0].model, longest, options.quantization, options.kv_dtype, several)
    for warm in random_prompts(workloads[0], 1, 2, 2048), random_prompts(workloads[0], 9, 3):
        answer(engine, warm, questions, 4, len(warm))
    command = shlex.join(["python", "-m", "infra.measure.vllm", *(arguments or sys.argv[1:])])
    form = {"quantization": options.quantization, "kv_dtype": options.kv_dtype, "command": command}
    for place, workload in enumerate(workloads):
        row = measure(engine, workload, questions, options.documents, options.waves, 10 + 2 * place)
        print(json.dumps(row), flush=True)
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            # Asked after vLLM is there: a process that has touched CUDA may not be forked.
            "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            "engine": f"vllm {vllm.__version__}",
            "rows": [{**row, **form}],
        }
        options.output.write_text(json.dumps(gathered(record, options.output), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
