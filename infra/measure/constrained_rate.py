"""What holding answers to a schema costs: tokens a second of decode, all rows of a batch held, two of them, or none.

    python -m infra.measure.constrained_rate --model models/SmolLM2-135M-Instruct --output RESULT.json
    python -m infra.measure.constrained_rate --model FOLDER --workload llama3.1-8b-4k --output RESULT.json

Of the folder a tokenizer and config.json are enough: weights are random and drawn on the card, in the config's shape or
that of a workload of `corm-batch bench`. Prompts are random tokens, new ones for every run, all answers are greedy and
equally long; the full cache is kept. The three ways take turns, --repeats times; what counts is each one's median.
`parts` are of one more run with all rows held, in ms a step, mean and 95th percentile:

    wait      host: for the tokens of the step before, while the forward pass runs
    advance   host, still beside the pass: every answer's place goes on by its token
    mask      host, still beside the pass: the library fills the masks
    late      device: from the end of the pass until the masks are made, which is what the host was too slow by
    copy      device: the masks come from host memory
    apply     device: they go on the logits
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from corm_batch.bench.bench import device_name
from corm_batch.bench.gpus import dense_shape
from corm_batch.bench.model import random_model
from corm_batch.bench.workload import LlamaShape, find_workload
from corm_batch.engine import constraint
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.grammar.grammar import Grammar
from corm_batch.grammar.matcher import fill
from corm_batch.ops.select import select_mask
from corm_batch.policies.full import Full
from infra.measure.record import begin_record, write_record

WAYS: Final = ("free", "constrained", "two constrained")
_ENDLESS: Final = Grammar.of_schema(
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"a": {"type": "string", "maxLength": 60}, "n": {"type": "integer"}},
            "required": ["a", "n"],
            "additionalProperties": False,
        },
        "minItems": 10_000,
    }
)
"""What no answer comes to the end of."""


def shape_of(folder: str) -> LlamaShape:
    """The counts of a model's config, as of a Llama."""
    return dense_shape(AutoConfig.from_pretrained(folder))


def random_with_tokenizer(shape: LlamaShape, folder: str, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """A model of random weights that has the folder's tokenizer and ends answers with its end of sequence."""
    load_tokenizer = partial(AutoTokenizer.from_pretrained, folder)
    ends = frozenset({load_tokenizer().eos_token_id})
    return replace(random_model(shape, dtype, device), load_tokenizer=load_tokenizer, eos_token_ids=ends)


def run(engine: Engine, prompts: Sequence[list[int]], answer_tokens: int, num_constrained: int) -> dict[str, float]:
    """All answers beside each other, the first so many held to the schema: tokens a second of decode, and a step's ms.

    Raises:
        DocumentError: one cannot be answered.
        RuntimeError: one ended early, so that not all steps had all rows.
    """
    before, requests = replace(engine.stats), []
    for place, prompt in enumerate(prompts):
        held = place < num_constrained
        sampling = SamplingParams(max_new_tokens=answer_tokens, ignore_eos=not held)
        requests.append(Request(str(place), prompt, sampling, grammar=_ENDLESS if held else None))
    for done in engine.run(requests):
        if done.error is not None:
            raise done.error
        if len(done.token_ids) != answer_tokens:
            raise RuntimeError(f"an answer ended after {len(done.token_ids)} of {answer_tokens} tokens")
    seconds, steps = engine.stats.decode_s - before.decode_s, engine.stats.decode_steps - before.decode_steps
    tokens = len(prompts) * (answer_tokens - 1)  # the first comes of prefill
    return {"tokens_per_s": round(tokens / seconds, 1), "ms_per_step": round(1e3 * seconds / steps, 3)}


def measure(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """The ways in turn, after each has run once: every run, medians, and what is left of the free rate."""
    chance, batch = np.random.default_rng(5), options.batch
    counts = {"free": 0, "constrained": batch, "two constrained": min(2, batch)}
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for repeat in range(options.repeats + 1):
        for way in WAYS:
            size = batch, options.prompt_tokens
            prompts: list[list[int]] = chance.integers(engine.shape.vocab_size, size=size).tolist()
            found = run(engine, prompts, options.answer, counts[way])
            if repeat:
                runs[way].append(found)
    medians = {way: statistics.median(one["tokens_per_s"] for one in runs[way]) for way in WAYS}
    over = {f"{way} over free": round(medians[way] / medians["free"], 4) for way in WAYS[1:]}
    return {"runs": runs, "median_tokens_per_s": medians, **over}


Moment = tuple[float, torch.cuda.Event | None]
"""On the host, in seconds, and in the device's stream, where there is one."""


def moment() -> Moment:
    """Now."""
    event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else None
    if event is not None:
        event.record()
    return time.perf_counter(), event


def on_host(start: Moment, stop: Moment) -> float:
    """Milliseconds between two moments."""
    return 1e3 * (stop[0] - start[0])


def on_device(start: Moment, stop: Moment) -> float:
    """Milliseconds between two moments of the stream, of the host where there is none."""
    return on_host(start, stop) if start[1] is None or stop[1] is None else start[1].elapsed_time(stop[1])


def measure_parts(engine: Engine, prompts: Sequence[list[int]], answer_tokens: int) -> dict[str, dict[str, float]]:
    """What makes up the steps of a batch of which all rows are held: of those that come behind another one between two
    looks at the tokens. Nothing on a CPU, which looks at each."""
    steps: list[list[Moment]] = [[]]  # the first takes what belongs to none
    go_on = constraint.Constraint._go_on

    def timed_go_on(one: constraint.Constraint) -> None:
        steps.append([moment()])
        if one._copied is not None:
            one._copied.synchronize()
        steps[-1].append(moment())
        go_on(one)
        steps[-1].append(moment())

    def timed_fill(*arguments: Any) -> None:
        steps[-1].append(moment())
        fill(*arguments)

    def timed_select(device: torch.device) -> Callable[..., None]:
        def timed_apply(*arguments: Any) -> None:
            steps[-1].append(moment())
            apply(*arguments)
            steps[-1].append(moment())

        apply = select_mask(device)
        return timed_apply

    with (
        patch.object(constraint.Constraint, "_go_on", timed_go_on),
        patch.object(constraint, "fill", timed_fill),
        patch.object(constraint, "select_mask", timed_select),
    ):
        run(engine, prompts, answer_tokens, len(prompts))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    if len(steps) == 1:
        return {}
    asked, here, advanced, filled, copied, applied = zip(*(step[:6] for step in steps[1:]), strict=True)
    spans = {
        "wait": (on_host, asked, here),
        "advance": (on_host, here, advanced),
        "mask": (on_host, advanced, filled),
        "late": (on_device, asked, filled),
        "copy": (on_device, filled, copied),
        "apply": (on_device, copied, applied),
    }
    found = {name: sorted(map(of, starts, stops)) for name, (of, starts, stops) in spans.items()}
    return {
        name: {"mean": round(statistics.fmean(ms), 4), "p95": round(ms[int(0.95 * len(ms))], 4)}
        for name, ms in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FOLDER", help="with a tokenizer and config.json")
    parser.add_argument("--workload", metavar="NAME", help="whose shape the model has instead of the config's")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--answer", type=int, default=256, help="tokens of every answer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = find_workload(options.workload).model if options.workload else shape_of(options.model)
    about = {name: value for name, value in vars(options).items() if name != "output"}
    record = begin_record("constrained_rate", device=device_name(device), torch=torch.__version__, **about)
    model = random_with_tokenizer(shape, options.model, getattr(torch, options.dtype), device)
    length = options.prompt_tokens + options.answer
    config = EngineConfig.parse({"max_sequences": options.batch, "max_model_len": length})
    engine = Engine(model, Full(), config)
    record |= measure(engine, options)
    prompts = np.random.default_rng(6).integers(shape.vocab_size, size=(options.batch, options.prompt_tokens)).tolist()
    record["parts"] = measure_parts(engine, prompts, options.answer)
    write_record(record, options.output)


if __name__ == "__main__":
    main()
