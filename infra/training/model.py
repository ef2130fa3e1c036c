"""The reference model and its optimisers: what a run is, fresh weights, and the folder that transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from infra.training.attention import PACKED
from infra.training.compose import DOCUMENT, END
from infra.training.prepare import CONTEXT, VOCABULARY

SIZES = {
    "small": {"hidden_size": 384, "intermediate_size": 896, "num_hidden_layers": 10, "num_attention_heads": 6},
    "half": {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 8, "num_attention_heads": 4},
    "double": {"hidden_size": 512, "intermediate_size": 1280, "num_hidden_layers": 12, "num_attention_heads": 8},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1},
}
WARM_UP, DECAY_FROM = 0.02, 0.4
"""Shares of the run: the rate grows for the first, of the steps, and falls from the second on, to zero at the end."""


@dataclass(frozen=True)
class Settings:
    """What a run is; the same settings give the same run.

    Attributes:
        start: folder of the model whose weights the run goes on from; None for fresh weights.
    """

    architecture: str
    size: str
    kv_heads: int | None
    optimizer: str
    lr: float
    tokens: float
    batch: int
    row: int
    seed: int
    start: str | None = None

    @property
    def rows(self) -> int:
        """Rows of the whole run."""
        return self.steps * self.batch

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, round(self.tokens / (self.batch * self.row)))

    def rate(self, step: int, done: float) -> float:
        """Learning rate of a step, counted from 0, when this share of the run (0..1) is done."""
        return self.lr * min(1.0, (step + 1) / (WARM_UP * self.steps), max(0.0, 1 - done) / (1 - DECAY_FROM))


def build(settings: Settings, tokenizer: Tokenizer) -> PreTrainedModel:
    """A model with fresh weights or those to go on from, its layers compiled one for all where there is a GPU.

    Raises:
        SystemExit: the model to go on from has other weights or another tokenizer.
    """
    size = SIZES[settings.size]
    config = AutoConfig.for_model(
        settings.architecture,
        **size,
        num_key_value_heads=settings.kv_heads or size["num_attention_heads"],
        head_dim=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 200_000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(DOCUMENT),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=0,
    )
    torch.manual_seed(settings.seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED)
    if settings.start:
        load(model, Path(settings.start), tokenizer)
    if torch.cuda.is_available():
        model.to("cuda")  # type: ignore[arg-type]  # what transformers wraps it with has no type
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    return model


def load(model: PreTrainedModel, folder: Path, tokenizer: Tokenizer) -> None:
    """Give a model the weights of a folder that transformers loads.

    Raises:
        SystemExit: they are of other names or shapes, or of another tokenizer.
    """
    if Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab() != tokenizer.get_vocab():
        raise SystemExit(f"{folder}: its tokenizer is not the run's; copy it to WORK/tokenizer before prepare.py")
    try:
        model.load_state_dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    except RuntimeError as error:
        raise SystemExit(f"{folder}: not a model of the run's architecture and size: {error}") from None


def optimizers(model: PreTrainedModel, name: str, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the layers (its update scaled to the size of AdamW's)."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    decayed = [model.model.embed_tokens.weight]
    if name == "adamw":
        decayed += matrices
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=torch.cuda.is_available())
    ]
    if name == "muon":
        chosen.append(torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    return chosen


def save(model: PreTrainedModel, tokenizer: Path, folder: Path) -> None:
    """A copy in bfloat16, with its tokenizer and chat template; the model itself stays as it is."""
    half = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
