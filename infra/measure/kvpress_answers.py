"""What kvpress answers to prompts in a file, press by press: the part of `kvpress_scores` that runs beside kvpress.

    PYTHON_WITH_KVPRESS -m infra.measure.kvpress_answers QUESTIONS.json ANSWERS.json

Runs in an environment of its own, with kvpress 0.5.5 and the transformers it wants (below 5.3); corm_batch is not
asked. The press sees the whole prompt, question included, as a policy does here; then the likeliest token is taken, as
in kvpress' own pipeline. Float32 on a CPU. Answers that are in the file are left as they are.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from infra.measure.kvpress_positions import PRESSES
from infra.measure.record import write_whole


@torch.inference_mode()
def answer(model: Any, prompt: list[int], press: Any, max_new_tokens: int, ends: list[int]) -> tuple[list[int], float]:
    """The tokens, the one that ends them included, and the share of the prompt's entries that the press left."""
    cache: Any = DynamicCache()
    with press(model) if press is not None else nullcontext():
        logits = model(torch.tensor([prompt]), past_key_values=cache, logits_to_keep=1).logits
    held = total = 0
    for layer, entries in zip(model.model.layers, cache.layers, strict=True):
        masked = getattr(layer.self_attn, "masked_key_indices", None)  # of AdaKV, whose cache keeps all
        held += entries.keys.shape[1] * entries.keys.shape[2] - (0 if masked is None else len(masked[1]))
        total += entries.keys.shape[1] * len(prompt)
    tokens = [int(logits[0, -1].argmax())]
    while len(tokens) < max_new_tokens and tokens[-1] not in ends:
        position = torch.tensor([[len(prompt) + len(tokens) - 1]])
        logits = model(torch.tensor([tokens[-1:]]), past_key_values=cache, position_ids=position).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens, held / total


def main() -> None:
    """Answer what the file does not hold yet, and write it after every press."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    options = parser.parse_args()
    asked = json.loads(options.questions.read_text())
    found = json.loads(options.answers.read_text()) if options.answers.exists() else {}
    found["versions"] = {name: version(name) for name in ("kvpress", "transformers", "torch")}
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    for kept in asked["kept"]:
        for name, make in {"full": None, **PRESSES}.items():
            answers = found.setdefault(name, {}).setdefault(str(kept), {})
            model.set_attn_implementation("eager" if name == "ObservedAttention" else "sdpa")
            for key, prompt in asked["prompts"].items():
                if key not in answers and (make is not None or kept == asked["kept"][0]):
                    press = None if make is None else make(len(prompt), 1 - kept, asked["compactor_chunk"])
                    tokens, share = answer(model, prompt, press, asked["max_new_tokens"], asked["ends"])
                    answers[key] = {"tokens": tokens, "kept": share}
            write_whole(found, options.answers)
            print(name, kept, len(answers), flush=True)


if __name__ == "__main__":
    main()
