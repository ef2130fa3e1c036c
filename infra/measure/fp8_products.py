"""Which products of 8-bit numbers cost a model's answers how much: some layers at a time, by the definition on a CPU.

    python -m infra.measure.fp8_products --job jobs/released/job.yaml

The model sums up held-out books and meetings in float32, greedily; then its layers, or some, become those that
`model.weights: fp8` makes of them, and what is measured is by how many nats a token its own answers are found less
likely, and the divergence of the two distributions (Kullback and Leibler's) at each of their tokens, which takes fewer
tokens to know. Standard errors are over answers.

Writes infra/measure/results/fp8_products.json, in which results of other models and forms stay.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from corm_batch.engine.fp8 import exact_inputs, quantizable, replace
from corm_batch.engine.fusion import decoder_layers
from corm_batch.ops.scaled import dequantize, quantize_blocks, quantize_rows
from infra.measure.held_out import JOBS, ROOT, AskedModel
from infra.measure.record import begin_record, write_record

OUTPUT = ROOT / "infra/measure/results/fp8_products.json"
TEXTS = ("books", "meetings")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GATE_UP, DOWN = ("gate_proj", "up_proj"), ("down_proj",)
FORMS = (
    "all", "weights alone", "inputs alone", "attention", "gate and up", "down", "all but the first and last block",
    "inputs of down by 128",
)  # fmt: skip
"""What is in 8 bits."""


@contextmanager
def in_8_bits(model: Any, form: str) -> Iterator[None]:
    """Have what `form` says, of `FORMS`, computed in 8 bits while the block runs."""
    last = len(decoder_layers(model)) - 1
    leaves = {"attention": ATTENTION, "gate and up": GATE_UP, "down": DOWN}.get(form, ATTENTION + GATE_UP + DOWN)
    inner = form == "all but the first and last block"
    chosen = [
        (name, layer)
        for name, layer in quantizable(model)
        if name.rpartition(".")[2] in leaves and not (inner and _block(name) in (0, last))
    ]
    with ExitStack() as stack:
        for name, layer in chosen:
            if form == "inputs alone":
                stack.callback(layer.register_forward_pre_hook(_rounded_rows).remove)
                continue
            new = replace(model, name, layer.weight.dtype)
            new.quantize(layer.weight)
            stack.callback(model.set_submodule, name, layer)
            if form == "inputs of down by 128" and name.endswith(DOWN):
                new.quantizes_input = False
                stack.callback(new.register_forward_pre_hook(_rounded_blocks).remove)
        if form == "weights alone":
            stack.enter_context(exact_inputs(model))
        yield


def _block(name: str) -> int:
    """Of a layer's name, as `model.layers.3.mlp.down_proj`, which block it is in."""
    return int(next(part for part in name.split(".") if part.isdecimal()))


def _rounded_rows(layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    number, scale = quantize_rows(given[0])
    return ((number.float() * scale).to(given[0].dtype),)


def _rounded_blocks(layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    (value,) = given
    number, scale = quantize_blocks(value.flatten(0, -2))
    return (dequantize(number, scale).to(value.dtype).view_as(value),)


@torch.inference_mode()
def answer(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """What the model says to each, greedily."""
    found = []
    for prompt in prompts:
        out = model.generate(torch.tensor([prompt]), max_new_tokens=max_new_tokens, do_sample=False)
        found.append(out[0, len(prompt) :].tolist())
    return found


@torch.inference_mode()
def read(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Log-probabilities [A, V] at the tokens of each answer."""
    for prompt, said in zip(prompts, answers, strict=True):
        logits = model(torch.tensor([[*prompt, *said]]), logits_to_keep=len(said) + 1).logits
        yield logits[0, :-1].log_softmax(dim=-1)


def compare(exact: Sequence[Tensor], found: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Nats a token that the answers lose, and the divergence, with standard errors over answers."""
    lost, apart = [], []
    for before, after, said in zip(exact, found, answers, strict=True):
        lost.append(float((before - after).gather(1, torch.tensor(said)[:, None]).mean()))
        apart.append(float((before.exp() * (before - after)).sum(dim=1).mean()))
    told = {"nats": lost, "divergence": apart}
    return {
        name: {"mean": fmean(values), "error": stdev(values) / math.sqrt(len(values))} for name, values in told.items()
    }


def measure(about: AskedModel, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The figures of each form, one after the other."""
    suites = [
        {"name": "likelihood", "documents": str(ROOT / f"infra/training/evaluation/{text}.parquet")} for text in TEXTS
    ]
    prompts = [one.prompt for suite in suites for one in about.cases(suite, [options.length], options.cases)]
    model: Any = AutoModelForCausalLM.from_pretrained(about.folder, dtype=torch.float32).eval()
    answers = answer(model, prompts, options.max_new_tokens)
    exact = list(read(model, prompts, answers))
    for form in options.forms:
        with in_8_bits(model, form):
            yield form, compare(exact, list(read(model, prompts, answers)), answers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the record after each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", default=JOBS[1], help="whose model answers")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--cases", type=int, default=6, help="of books, and of meetings")
    parser.add_argument("--length", type=int, default=900, help="tokens of a prompt and its answer")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    about = AskedModel(options.job)
    results = json.loads(options.output.read_text())["results"] if options.output.exists() else {}
    record = begin_record("fp8_products", torch=torch.__version__)
    asked = {"answers": len(TEXTS) * options.cases, "length": options.length}
    for form, found in measure(about, options):
        results.setdefault(about.name, {})[form] = {**asked, **found}
        write_record({**record, "results": results}, options.output)


if __name__ == "__main__":
    main()
