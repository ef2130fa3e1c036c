"""What kvpress answers to prompts in a file, press by press: the part of `kvpress_scores` that runs beside kvpress.

    PYTHON_WITH_KVPRESS -m infra.measure.kvpress_answers QUESTIONS.json ANSWERS.json

Runs in an environment of its own, with kvpress 0.5.5 and the transformers it wants (below 5.3); corm_batch is not
asked. The press sees the whole prompt, question included, as a policy does here; then the likeliest token is taken, as
in kvpress' own pipeline. What a prompt's layers compute does not depend on the press: it is computed once, and each
press' own forward hook is called on it. Float32 on a CPU. Answers that are in the file are left as they are.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from infra.measure.kvpress_positions import PRESSES, KVzip
from infra.measure.record import write_whole


@dataclass(frozen=True)
class Read:
    """A prompt that was read, before any press.

    Attributes:
        prompt: its tokens.
        calls: of every layer's attention: the module, what it was given and what it gave.
        first: the likeliest token after it.
    """

    prompt: list[int]
    calls: list[tuple[Any, Any, Any, Any]]
    first: int


@torch.inference_mode()
def read(model: Any, prompt: list[int], implementation: str) -> Read:
    """Read a prompt, with `eager` attention where a press asks for its weights."""
    model.set_attn_implementation(implementation)
    calls: list[tuple[Any, Any, Any, Any]] = []
    attention = [layer.self_attn for layer in model.model.layers]
    hooks = [
        module.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True)  # module, args, kwargs, output
        for module in attention
    ]
    for module in attention:
        module.rotary_emb = model.model.rotary_emb  # as a press does that is entered
    logits = model(torch.tensor([prompt]), past_key_values=DynamicCache(), logits_to_keep=1).logits
    for hook in hooks:
        hook.remove()
    return Read(prompt, calls, int(logits[0, -1].argmax()))


@torch.inference_mode()
def press_on(model: Any, found: Read, press: Any) -> Any:
    """The cache of a prompt as a press leaves it."""
    cache: Any = DynamicCache()
    if press is not None:
        press.post_init_from_model(model)
    for module, args, kwargs, output in found.calls:
        entries = kwargs["past_key_values"].layers[module.layer_idx]
        cache.update(entries.keys.clone(), entries.values.clone(), module.layer_idx)
        module.masked_key_indices = None
        if press is not None:
            press.forward_hook(module, args, {**kwargs, "past_key_values": cache}, list(output))
    return cache


@torch.inference_mode()
def read_and_repeat(model: Any, prompt: list[int], press: KVzip) -> tuple[Any, int]:
    """The cache of a prompt as KVzip leaves it, and the likeliest token after the prompt."""
    model.set_attn_implementation("sdpa")
    cache: Any = DynamicCache()
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None
    with press(model):
        logits = model(torch.tensor([prompt]), past_key_values=cache, logits_to_keep=1).logits
    return cache, int(logits[0, -1].argmax())


@torch.inference_mode()
def answer(
    model: Any, cache: Any, num_tokens: int, first: int, max_new_tokens: int, ends: list[int]
) -> tuple[list[int], float]:
    """The tokens, the one that ends them included, and the share of the prompt's entries that the press left."""
    held = total = 0
    for layer, entries in zip(model.model.layers, cache.layers, strict=True):
        masked = layer.self_attn.masked_key_indices  # of AdaKV and KVzip, whose caches keep all
        held += entries.keys.shape[1] * entries.keys.shape[2] - (0 if masked is None else len(masked[1]))
        total += entries.keys.shape[1] * num_tokens
    tokens = [first]
    while len(tokens) < max_new_tokens and tokens[-1] not in ends:
        position = torch.tensor([[num_tokens + len(tokens) - 1]])
        logits = model(torch.tensor([tokens[-1:]]), past_key_values=cache, position_ids=position).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens, held / total


def answer_all(model: Any, asked: dict[str, Any], key: str, found: dict[str, Any]) -> None:
    """Every press' answer to one prompt that is not in `found` yet, and with what words KVzip has it repeated."""
    prompt = asked["prompts"][key]
    missing = [
        (name, kept)
        for name in ("full", *PRESSES, "KVzip")
        for kept in (asked["kept"] if name != "full" else [1.0])
        if key not in found.setdefault(name, {}).setdefault(str(kept), {})
    ]

    def note(name: str, kept: float, cache: Any, first: int) -> None:
        tokens, share = answer(model, cache, len(prompt), first, asked["max_new_tokens"], asked["ends"])
        found[name][str(kept)][key] = {"tokens": tokens, "kept": share}

    for eager in (False, True):
        mine = [one for one in missing if one[0] != "KVzip" and (one[0] == "ObservedAttention") == eager]
        if not mine:
            continue
        seen = read(model, prompt, "eager" if eager else "sdpa")
        for name, kept in mine:
            press = None if name == "full" else PRESSES[name](len(prompt), 1 - kept, asked["chunk"])
            note(name, kept, press_on(model, seen, press), seen.first)
    for name, kept in missing:
        if name == "KVzip":
            press = KVzip(1 - kept, layerwise=True, n_sink=4, chunk_size=asked["chunk"])
            note(name, kept, *read_and_repeat(model, prompt, press))
            found["kvzip_asked"] = press.asked


def main() -> None:
    """Answer what the file does not hold yet, and write it after every prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    options = parser.parse_args()
    asked = json.loads(options.questions.read_text())
    found = json.loads(options.answers.read_text()) if options.answers.exists() else {}
    found["versions"] = {name: version(name) for name in ("kvpress", "transformers", "torch")}
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    for number, key in enumerate(asked["prompts"], 1):
        answer_all(model, asked, key, found)
        write_whole(found, options.answers)
        print(f"kvpress: {number} of {len(asked['prompts'])} prompts", flush=True)


if __name__ == "__main__":
    main()
