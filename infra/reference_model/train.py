"""Train the small reference model on one GPU; resumable.

    python -m infra.reference_model.prepare DATA WORK
    python -m infra.reference_model.train DATA WORK RUN --tokens 1.6e9

Reads WORK/tokenizer and WORK/text.npy (prepare.py) and DATA/instruct/*.parquet. RUN gets `log.jsonl` (losses, and what
probe.py measures along the way), `checkpoint.pt` and, at the end, `model/`, a folder transformers loads. The same
arguments and seed give the same sequences in the same order, also after an interruption; started again, a run goes on
from its checkpoint. Learning rate: warm-up, constant, then straight to zero over the last 60 % of the tokens, or of
`--seconds` where those are over first: a run always ends with a rate of zero.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from infra.reference_model.attention import PACKED, hidden_states
from infra.reference_model.compose import DOCUMENT, END, Composer, Instructions, Row, common_words
from infra.reference_model.prepare import CONTEXT, VOCABULARY
from infra.reference_model.probe import Probe

SIZES = {
    "small": {"hidden_size": 384, "intermediate_size": 896, "num_hidden_layers": 10, "num_attention_heads": 6},
    "half": {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 8, "num_attention_heads": 4},
    "double": {"hidden_size": 512, "intermediate_size": 1280, "num_hidden_layers": 12, "num_attention_heads": 8},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1},
}
WARM_UP, DECAY_FROM = 0.02, 0.4
ANSWER_WEIGHT = 4.0


@dataclass(frozen=True)
class Settings:
    """What a run is; the same settings give the same run."""

    architecture: str
    size: str
    kv_heads: int | None
    optimizer: str
    lr: float
    tokens: float
    batch: int
    row: int
    seed: int

    @property
    def rows(self) -> int:
        """Rows of the whole run."""
        return self.steps * self.batch

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, round(self.tokens / (self.batch * self.row)))

    def rate(self, done: float) -> float:
        """Learning rate when this share of the run is done."""
        return self.lr * min(1.0, (done + 1 / self.steps) / WARM_UP, max(0.0, 1 - done) / (1 - DECAY_FROM))


def build(settings: Settings, tokenizer: Tokenizer) -> PreTrainedModel:
    """A model with fresh weights, its layers compiled one for all where there is a GPU."""
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
    model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED)
    if torch.cuda.is_available():
        model = model.cuda()
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    return model


def optimizers(model: PreTrainedModel, name: str, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the layers (its update scaled to the size of AdamW's)."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    adam = {"lr": lr, "betas": (0.9, 0.95), "fused": torch.cuda.is_available()}
    decayed = [model.model.embed_tokens.weight]
    if name == "adamw":
        decayed += matrices
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    chosen: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, **adam)]
    if name == "muon":
        chosen.append(torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    return chosen


def loss_of(weight_VH: Tensor, hidden_TH: Tensor, target_T: Tensor, weight_T: Tensor, answer_T: Tensor) -> Tensor:
    """Weighted loss, loss of text tokens, loss of answer tokens (nats a token)."""
    loss = F.cross_entropy((hidden_TH @ weight_VH.T).float(), target_T, reduction="none")
    total = (loss * weight_T).sum() / weight_T.sum()
    text_T = (weight_T > 0).float() - answer_T
    text = (loss * text_T).sum() / text_T.sum()
    return torch.stack([total, text, (loss * answer_T).sum() / answer_T.sum().clamp(min=1)])


def step_inputs(row: Row, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ids, targets, weights, answers (each [T]) and cu_seqlens on the device; nothing predicts another sequence."""
    ids = torch.from_numpy(row.ids.astype(np.int64))
    answer = torch.from_numpy(row.answer).float().roll(-1)
    weight = 1 + (ANSWER_WEIGHT - 1) * answer
    last = torch.from_numpy(row.cu_seqlens).long().unique()[1:] - 1
    weight[last] = answer[last] = 0
    tensors = (ids, ids.roll(-1), weight, answer, torch.from_numpy(row.cu_seqlens))
    return tuple(t.to(device, non_blocking=True) for t in tensors)  # type: ignore[return-value]


def compose_rows(queue: Any, composer_arguments: tuple[Any, ...], settings: Settings, first: int, every: int) -> None:
    """A worker process: rows first, first + every, ... of the run, each from a seed of its own."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # do not outlive a killed run
    composer = Composer(*composer_arguments, seed=0)
    for index in range(first, settings.rows, every):
        composer.random.seed(f"{settings.seed} {index}")
        queue.put(composer.row(settings.row, index / settings.rows))


def stream_rows(composer_arguments: tuple[Any, ...], settings: Settings, first: int, workers: int) -> Iterator[Row]:
    """Rows of the run from number `first` on, in order, made by worker processes.

    Raises:
        RuntimeError: from the iterator, when a worker died; it has printed why.
    """
    context = multiprocessing.get_context("fork")
    made = []
    for offset in range(workers):
        queue = context.Queue(maxsize=4)
        arguments = (queue, composer_arguments, settings, first + offset, workers)
        made.append((queue, context.Process(target=compose_rows, args=arguments, daemon=True)))
        made[-1][1].start()

    def take(index: int) -> Row:
        queue, worker = made[index % workers]
        while True:
            alive = worker.is_alive()  # asked before looking: a worker may end with its last rows in the queue
            try:
                return queue.get(timeout=1)
            except Empty:
                if not alive:
                    raise RuntimeError(f"the worker that composes row {first + index} died") from None

    return map(take, range(settings.rows - first))


def train(data: Path, work: Path, run: Path, settings: Settings, limits: argparse.Namespace) -> None:
    """Run until the tokens are spent or the seconds are over, and leave the model."""
    started = time.monotonic()
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer/tokenizer.json"))
    text = np.load(work / "text.npy", mmap_mode="r")
    words = common_words(tokenizer, text)
    instructions = Instructions.read(sorted((data / "instruct").glob("*.parquet")))
    checkpoint = run / "checkpoint.pt"
    saved = torch.load(checkpoint, map_location="cpu") if checkpoint.exists() else None
    if saved and saved["settings"] != asdict(settings):
        raise SystemExit(f"{checkpoint} is of another run: {saved['settings']}, asked for {asdict(settings)}")
    first, spent = (saved["step"], saved["seconds"]) if saved else (0, 0.0)
    arguments = (tokenizer, text, words, instructions)
    rows = stream_rows(arguments, settings, first * settings.batch, limits.workers)
    probe = Probe.load(Composer(*arguments, seed=0), tuple(limits.probe_lengths), limits.probe_cases, settings.row)

    model = build(settings, tokenizer)
    chosen = optimizers(model, settings.optimizer, settings.lr)
    if saved:
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(chosen, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    loss_fn = torch.compile(loss_of, dynamic=False) if model.device.type == "cuda" else loss_of
    probes = {round(settings.steps * (i + 1) / (limits.probes + 1)) for i in range(limits.probes)}

    def log(**values: Any) -> None:
        with (run / "log.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
        print(f"{run.name} {json.dumps(values)}", flush=True)

    def seconds() -> float:
        return round(spent + time.monotonic() - started, 1)

    def measure() -> None:
        model.eval()
        with torch.compiler.set_stance("force_eager"):
            log(step=step, tokens=step * settings.batch * settings.row, seconds=seconds(), **probe(model))
        model.train()

    log(settings=asdict(settings), steps=settings.steps, parameters=model.num_parameters(), device=str(model.device))
    step = first
    while (progress := max(step / settings.steps, seconds() / limits.seconds)) < 1:
        losses = torch.zeros(3, device=model.device)
        for _ in range(settings.batch):
            row = next(rows)
            ids, target, weight, answer, cu_seqlens = step_inputs(row, model.device)
            with torch.autocast(model.device.type, torch.bfloat16):
                hidden = hidden_states(model, ids, cu_seqlens, row.max_seqlen)
                parts = loss_fn(model.lm_head.weight, hidden, target, weight, answer)
            (parts[0] / settings.batch).backward()
            losses += parts.detach() / settings.batch
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(progress)
            if norm.isfinite():
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens = step * settings.batch * settings.row
        if step % limits.log_every == 0:
            loss, text_loss, answer_loss = (round(x, 4) for x in losses.tolist())
            log(
                step=step,
                tokens=tokens,
                seconds=seconds(),
                loss=loss,
                text=text_loss,
                answer=answer_loss,
                norm=norm.item(),
            )
        if step in probes:
            measure()
        if step % limits.save_every == 0:
            state = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in chosen]}
            state |= {"step": step, "seconds": seconds(), "settings": asdict(settings)}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    measure()
    save(model, work / "tokenizer", run / "model")
    log(seconds=seconds(), saved=str(run / "model"))


def save(model: PreTrainedModel, tokenizer: Path, folder: Path) -> None:
    """In bfloat16, with its tokenizer and chat template."""
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--architecture", choices=("llama", "qwen2", "qwen3"), default="qwen3")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--kv-heads", type=int, help="key-value heads; as many as query heads if not given")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--lr", type=float, default=8e-3)
    parser.add_argument("--tokens", type=float, default=1.6e9, help="of the whole run; the schedule follows it")
    parser.add_argument("--row", type=int, default=131_072, help="tokens of a forward pass")
    parser.add_argument("--batch", type=int, default=2, help="rows of an optimiser step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1500, help="of the whole run, at most")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=10, help="measurements before the last one")
    parser.add_argument("--probe-lengths", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--probe-cases", type=int, default=32)
    limits = parser.parse_args()
    settings = Settings(**{name: getattr(limits, name) for name in Settings.__dataclass_fields__})
    torch.set_float32_matmul_precision("high")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are forked, one process each is enough
    train(limits.data, limits.work, limits.run, settings, limits)


if __name__ == "__main__":
    main()
