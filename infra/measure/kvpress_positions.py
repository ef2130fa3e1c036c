"""Positions that kvpress keeps of a prompt, to hold the policies of corm_batch to.

    python -m infra.measure.kvpress_positions --output infra/measure/results/kvpress_positions.json
    python -m infra.measure.kvpress_positions --model models/SmolLM2-135M-Instruct --output ...smollm2.json

Runs in an environment of its own, with kvpress 0.5.5 and the transformers it wants (below 5.3); corm_batch is not
asked. The prompt is the beginning of a held-out book, the model that of the quick start, or another one, in float32;
half of the entries stay. Written are numbers in base 16 whose bit n says that token n stays, by layer and head;
tests/infra/measure/test_kvpress_positions.py holds the engine to them.

Where kvpress does something else on purpose, that alone is set to what is done here, so that nothing else can hide
behind it: Compactor's random matrix is drawn from the layer's number, and no part of its prompt is filled up; KVzip
takes the whole prompt for its context. With what KVzip asks a model to repeat a prompt is written, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kvpress  # type: ignore[import-not-found]
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from infra.measure.kvpress_policies import KVZIP_CHUNK, POSITIONS_CHUNK
from infra.measure.record import begin_record, write_record

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "jobs/quickstart/model"
BOOKS = ROOT / "infra/training/evaluation/books.parquet"
NUM_TOKENS, RATIO = 320, 0.5


class Compactor(kvpress.CompactorPress):  # type: ignore[misc]
    """Its random matrix follows from the layer."""

    def score(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """As it is, from that seed on."""
        torch.manual_seed(module.layer_idx)
        return super().score(module, *args, **kwargs)


def pyramid(num_tokens: int, ratio: float, **fields: Any) -> Any:
    """PyramidKV with this average budget, the window included: there it is counted beside."""
    share = 1 - (int(num_tokens * (1 - ratio)) - fields["window_size"]) / num_tokens
    return Pyramid(share, **fields)


class Pyramid(kvpress.PyramidKVPress):  # type: ignore[misc]
    """Its line is that of entries beyond the window, which every layer keeps, and rounds down."""

    def get_layer_budget(self, module: Any, q_len: int) -> int:
        """The window, and the line at this layer."""
        last_layer = module.config.num_hidden_layers - 1
        average = q_len * (1 - self.compression_ratio)
        first = min(2 * average - average / self.beta, q_len - self.window_size)
        step = (2 * first - 2 * average) / last_layer
        return int(self.window_size + int(first - module.layer_idx * step + 1e-6))


class KVzip(kvpress.KVzipPress):  # type: ignore[misc]
    """Nothing of a prompt is left out because a chat would begin with as much."""

    asked: dict[str, list[int]]
    """Tokens that ask for the first chunk, for a later one, and behind either: what the last prompt was asked with."""

    def prepare(self, model: Any, tokenizer: Any, prev_postfix_size: int = 8) -> Any:
        """As it is, and what it has of its own is noted."""
        self.prefix_length, closing = 0, self._suffix_ids[0].tolist()
        passes = super().prepare(model, tokenizer, prev_postfix_size)
        (first_chunk, first), (later_chunk, later) = passes[:2]
        behind = len(closing)
        self.asked = {
            "first_ids": first[0, : -behind - first_chunk.shape[1]].tolist(),
            "later_ids": later[0, : -behind - later_chunk.shape[1] - prev_postfix_size].tolist(),
            "closing_ids": closing,
        }
        return passes


PRESSES: dict[str, Callable[[int, float, int], Any]] = {
    "Knorm": lambda _, ratio, __: kvpress.KnormPress(ratio),
    "KeyDiff": lambda _, ratio, __: kvpress.KeyDiffPress(ratio),
    "TOVA": lambda _, ratio, __: kvpress.TOVAPress(ratio),
    "SnapKV": lambda _, ratio, __: kvpress.SnapKVPress(ratio, window_size=32, kernel_size=1),
    "SnapKV pooled": lambda _, ratio, __: kvpress.SnapKVPress(ratio, window_size=32, kernel_size=7),
    "PyramidKV": lambda tokens, ratio, _: pyramid(tokens, ratio, window_size=32, kernel_size=1, beta=20),
    "ExpectedAttention": lambda _, ratio, __: kvpress.ExpectedAttentionPress(ratio, n_future_positions=512, n_sink=4),
    "ObservedAttention": lambda _, ratio, __: kvpress.ObservedAttentionPress(ratio),
    "Compactor": lambda _, ratio, chunk: Compactor(
        ratio, sink_size_start=8, sink_size_end=4, chunk_size=chunk, blending=0.35
    ),
    "StreamingLLM": lambda _, ratio, __: kvpress.StreamingLLMPress(ratio, n_sink=4),
    "AdaKV of SnapKV": lambda _, ratio, __: kvpress.AdaKVPress(
        kvpress.SnapKVPress(ratio, window_size=32, kernel_size=1), alpha_safeguard=0.2
    ),
}
"""As its documents call them, each for a prompt of so many tokens, of which a share goes; Compactor's with the tokens
of its parts. `kvpress_policies` has what they are here."""


def keys(model: Any, prompt: Tensor, press: Any = None) -> list[Tensor]:
    """What the cache holds of a prompt [1, T], [K, N, D] for each layer."""
    cache: Any = DynamicCache()
    with torch.inference_mode():
        if press is None:
            model(prompt, past_key_values=cache)
        else:
            with press(model):
                model(prompt, past_key_values=cache)
    return [layer.keys[0] for layer in cache.layers]


def kept(model: Any, prompt: Tensor, press: Any) -> list[list[list[int]]]:
    """Tokens whose entries stay, by layer and head; those of AdaKV are masked in a cache that keeps all."""
    attention = [layer.self_attn for layer in model.model.layers]
    full, pressed = keys(model, prompt), keys(model, prompt, press)
    masks = []
    for module, all_KTD, held_KND in zip(attention, full, pressed, strict=True):
        if (masked := getattr(module, "masked_key_indices", None)) is not None:
            mask_KT = torch.ones(all_KTD.shape[:2], dtype=torch.bool)
            mask_KT[masked[1], masked[2]] = False
            module.masked_key_indices = None
        else:
            mask_KT = (all_KTD[:, :, None] == held_KND[:, None]).all(dim=-1).any(dim=-1)
        masks.append(mask_KT)
    return [[head.nonzero()[:, 0].tolist() for head in mask_KT] for mask_KT in masks]


def as_bits(heads: list[list[list[int]]]) -> list[list[str]]:
    """By layer and head, the number in base 16 whose bits are the tokens."""
    return [[f"{sum(1 << token for token in head):x}" for head in layer] for layer in heads]


def main() -> None:
    """Ask every press, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    record = begin_record("kvpress_positions", kvpress=version("kvpress"), transformers=version("transformers"))
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    book = pq.read_table(BOOKS).to_pylist()[0]["text"]
    prompt = Tokenizer.from_file(str(options.model / "tokenizer.json")).encode(book[2000:6000]).ids[:NUM_TOKENS]
    record |= {"prompt": " ".join(map(str, prompt)), "kept": {}}
    for name, press in PRESSES.items():
        model.set_attn_implementation("eager" if name == "ObservedAttention" else "sdpa")
        heads = kept(model, torch.tensor([prompt]), press(NUM_TOKENS, RATIO, POSITIONS_CHUNK))
        record["kept"][name] = as_bits(heads)
    model.set_attn_implementation("sdpa")
    repeating = KVzip(RATIO, layerwise=True, n_sink=4, chunk_size=KVZIP_CHUNK)
    record["kept"]["KVzip"] = as_bits(kept(model, torch.tensor([prompt]), repeating))
    write_record({**record, "kvzip_asked": repeating.asked}, options.output)


if __name__ == "__main__":
    main()
