"""Measure vLLM on the workloads of `corm-batch bench`, so that both stand side by side.

    python -m infra.measure.vllm --workload llama3.1-8b-4k --workload llama3.1-8b-16k --output FILE.json
    python -m infra.measure.vllm --workload llama3.1-8b-4k --quantization fp8 --kv-dtype fp8 --output FILE.json

Needs vLLM, which nothing else here needs (0.22.1 was measured; --quantization fp8 also wants compressed-tensors), and a
GPU with nothing else on it. Same shapes, random weights and prompts that share nothing, answers of as many greedy
tokens; prefix caching off, CUDA graphs for batches up to the largest. As many documents as its own pool holds run at
once, and --waves times as many are answered. A file that holds rows of the same device and vLLM gets these beside them,
so that runs in several forms are one record. `fp8-stored` is a checkpoint whose config says that its weights are in
8 bits: they are made in that form, where `fp8` quantises bfloat16 ones as they load, which have to fit the card first.
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
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from corm_batch.bench.bench import device_name
from corm_batch.bench.engine_run import random_prompts
from corm_batch.bench.workload import LlamaShape, Workload, find_workload

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1",
    # Kernels for sampling and quantised weights from optional packages, which a small installation does without.
    "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_USE_DEEP_GEMM": "0",
}  # fmt: skip
GRAPH_SIZES = [1, 2, 4, 7, 8, 14, 16, 24, 28, 32, 40, 48, 56, 64, *range(80, 257, 16), *range(288, 513, 32)]
STEP_TOKENS, MOST, MEMORY = 16384, 512, 0.95
"""Prompt tokens of a step, documents at once, share of the GPU's memory."""


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


def start(shape: LlamaShape, max_tokens: int, quantization: str | None, kv_dtype: str) -> Any:
    """vLLM's engine with random weights."""
    from vllm import LLM

    stored = quantization == "fp8-stored"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(hf_config(shape, max_tokens, stored)), encoding="utf-8")
        llm = LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=max_tokens,
            quantization=None if stored else quantization, kv_cache_dtype=kv_dtype,
            gpu_memory_utilization=MEMORY, max_num_batched_tokens=STEP_TOKENS, max_num_seqs=MOST,
            enable_prefix_caching=False,
            compilation_config={"cudagraph_capture_sizes": GRAPH_SIZES, "max_cudagraph_capture_size": MOST},
        )  # fmt: skip
    return llm.llm_engine


def answer(
    engine: Any, prompts: Sequence[Sequence[int]], output_tokens: int, at_once: int
) -> tuple[float, list[tuple[float, int]]]:
    """Seconds for all prompts, and (time, documents that got a token) of every step.

    Raises:
        RuntimeError: not every document got all of its tokens.
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
    waiting, live, steps = list(range(len(prompts)))[::-1], 0, []
    started = time.perf_counter()
    while waiting or live:
        while waiting and live < at_once:
            number = waiting.pop()
            engine.add_request(str(number), {"type": "token", "prompt_token_ids": prompts[number]}, sampling)
            live += 1
        outputs = engine.step()
        live -= sum(output.finished for output in outputs)
        if made := sum(len(output.outputs[0].token_ids) for output in outputs):
            steps.append((time.perf_counter() - started, made))
    tokens = sum(made for _, made in steps)
    if tokens != len(prompts) * output_tokens:
        raise RuntimeError(f"{tokens} tokens came, {len(prompts) * output_tokens} were asked for")
    return time.perf_counter() - started, steps


def step_ms(steps: Sequence[tuple[float, int]]) -> tuple[int, float | None]:
    """The largest batch, and the median milliseconds between two steps of it; None where there were no two."""
    most = max(made for _, made in steps)
    gaps = [1e3 * (b[0] - a[0]) for a, b in pairwise(steps) if a[1] == b[1] == most]
    return most, round(statistics.median(gaps), 3) if gaps else None


def measure(engine: Any, workload: Workload, documents: int | None, waves: int) -> dict[str, Any]:
    """Prefill a few documents, then answer so many, or `waves` times what the pool holds."""
    cache, length = engine.vllm_config.cache_config, workload.prompt_tokens + workload.output_tokens
    fit = min(MOST, max(1, (cache.num_gpu_blocks - 1) // -(-length // cache.block_size)))
    few = max(1, (1 << 16) // workload.prompt_tokens)
    alone_s, _ = answer(engine, random_prompts(workload, 2, few), 1, few)
    prompts = random_prompts(workload, 3, documents or waves * fit)
    wall_s, steps = answer(engine, prompts, workload.output_tokens, min(len(prompts), fit))
    most, decode_ms = step_ms(steps)
    return {
        "workload": workload.name,
        "documents": len(prompts),
        "documents_in_flight": most,
        "pool_documents": fit,
        "wall_s": round(wall_s, 3),
        "documents_per_hour": round(3600 * len(prompts) / wall_s, 1),
        "prefill_s_per_document": round(alone_s / few, 4),
        "decode_ms_per_step": decode_ms,
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
    return row["workload"], row.get("quantization"), row.get("kv_dtype", "auto")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one model's workloads, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", required=True, help="of one model; may be given again")
    parser.add_argument("--quantization", choices=("fp8", "fp8-stored"), help="default: bfloat16 weights")
    parser.add_argument("--kv-dtype", choices=("auto", "fp8"), default="auto", help="auto: a bfloat16 cache")
    parser.add_argument("--documents", type=int, help="of each workload, whatever the pool holds")
    parser.add_argument("--waves", type=int, default=2, help="else as many times what the pool holds (default: 2)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args(arguments)
    workloads = [find_workload(name) for name in options.workload]
    shape = workloads[0].model
    if any(workload.model != shape for workload in workloads):
        parser.error("--workload: of one model each time")
    os.environ.update(ENVIRONMENT)
    import vllm

    longest = max(workload.prompt_tokens + workload.output_tokens for workload in workloads)
    engine = start(shape, longest, options.quantization, options.kv_dtype)
    for warm in random_prompts(workloads[0], 1, 2, 2048), random_prompts(workloads[0], 9, 3):
        answer(engine, warm, 4, len(warm))
    form = {"quantization": options.quantization, "kv_dtype": options.kv_dtype}
    command = shlex.join(["python", "-m", "infra.measure.vllm", *(arguments or sys.argv[1:])])
    rows = []
    for workload in workloads:
        rows.append({**measure(engine, workload, options.documents, options.waves), **form, "command": command})
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        # Asked last: a process that has touched CUDA may not be forked.
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "engine": f"vllm {vllm.__version__}",
        "rows": rows,
    }
    options.output.write_text(json.dumps(gathered(record, options.output), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
