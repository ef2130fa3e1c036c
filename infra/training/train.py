"""Train the small reference model on one GPU; resumable.

    python -m infra.training.prepare DATA WORK
    python -m infra.training.train DATA WORK RUN --seconds 1140

Reads what prepare.py left in WORK, and DATA/instruct/*.parquet. RUN gets `log.jsonl` (losses, and what probe.py
measures along the way), `checkpoint.pt` and, at the end, `model/`, a folder transformers loads. A run ends after
`--tokens` or `--seconds`, whichever is over first, and what is nearer its end says how far the run is: learning rate
(warm-up, constant, straight to zero) and length of the sequences follow it. Started again, a run goes on from its
checkpoint; one that its tokens end has the same sequences in the same order every time. With `--start MODEL` a run has
the weights of an earlier one to begin with, and the longest sequences and the last mixture from its first step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from corm_batch.evaluation.haystack import Ids, common_words
from infra.training.attention import hidden_states
from infra.training.compose import ANSWER_WEIGHT, AVOIDED, Composer, Instructions
from infra.training.model import SIZES, Settings, build, optimizers, save
from infra.training.prepare import AUTHORED
from infra.training.probe import Probe
from infra.training.schedule import LONGEST_FROM
from infra.training.stream import step_inputs, stream_rows


def loss_of(weight_VH: Tensor, hidden_TH: Tensor, target_T: Tensor, weight_T: Tensor) -> Tensor:
    """Weighted loss, loss of text tokens, loss of answer tokens, unlikelihood of tokens to avoid (nats a token)."""
    loss_T = F.cross_entropy((hidden_TH @ weight_VH.T).float(), target_T, reduction="none")
    text_T, answer_T, avoided_T = ((weight_T == kind).float() for kind in (1, ANSWER_WEIGHT, AVOIDED))
    unlikelihood_T = -torch.log1p(-torch.exp(-loss_T).clamp(max=1 - 1e-6))
    text, answer, avoided = (
        (of * each).sum() for of, each in ((loss_T, text_T), (loss_T, answer_T), (unlikelihood_T, avoided_T))
    )
    counts = [kind.sum().clamp(min=1) for kind in (text_T, answer_T, avoided_T)]
    total = (text + ANSWER_WEIGHT * (answer + avoided)) / (counts[0] + ANSWER_WEIGHT * (counts[1] + counts[2]))
    return torch.stack([total, *(each / count for each, count in zip((text, answer, avoided), counts, strict=True))])


def composer_arguments(data: Path, work: Path) -> tuple[Tokenizer, Ids, list[str], Instructions]:
    """What every composer of a run gets, but for the seed: tokenizer, text, words, instructions."""
    tokenizer = Tokenizer.from_file(str(work / "tokenizer/tokenizer.json"))
    text = np.load(work / "text.npy", mmap_mode="r")
    instructions = Instructions.read([*sorted((data / "instruct").glob("*.parquet")), work / AUTHORED])
    return tokenizer, text, common_words(tokenizer, text), instructions


class Training:
    """One run: its model, how far it is, and what it leaves behind.

    Args:
        limits: the command line.
        settings: what the run is.

    Raises:
        SystemExit: the folder's checkpoint is of a run with other settings, or the model to go on from does not fit.
    """

    def __init__(self, limits: argparse.Namespace, settings: Settings) -> None:
        self.limits, self.settings = limits, settings
        self.started, self.spent, self.step = time.monotonic(), 0.0, 0
        self.folder: Path = limits.run
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "checkpoint.pt"
        saved = torch.load(self.checkpoint, map_location="cpu") if self.checkpoint.exists() else None
        if saved and saved["settings"] != asdict(settings):
            raise SystemExit(f"{self.checkpoint} is of another run: {saved['settings']}, asked for {asdict(settings)}")
        if saved:
            self.step, self.spent = saved["step"], saved["seconds"]
        arguments = composer_arguments(limits.data, limits.work)
        # a run that goes on from another's weights begins where sequences are as long as they get
        self.skipped = LONGEST_FROM if settings.start else 0.0
        self.done = multiprocessing.get_context("fork").Value("d", self.skipped)
        self.rows = stream_rows(arguments, settings, self.done, self.step * settings.batch, limits.workers)
        self.model = build(settings, arguments[0])  # behind the fork: workers know nothing of the device
        self.optimizers = optimizers(self.model, settings.optimizer, settings.lr)
        if saved:
            self.resume(saved)
        composer = Composer(*arguments, 0)
        self.probe = Probe.load(composer, tuple(limits.probe_lengths), limits.probe_cases, settings.row)
        cuda = self.model.device.type == "cuda"
        self.loss = torch.compile(loss_of, dynamic=False) if cuda else loss_of

    def resume(self, saved: dict[str, Any]) -> None:
        """Weights and optimisers of a checkpoint."""
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)

    @property
    def seconds(self) -> float:
        """Of the whole run so far, those before an interruption included."""
        return round(self.spent + time.monotonic() - self.started, 1)

    @property
    def progress(self) -> float:
        """Share of the run that is done: of its steps or of its time, whichever is more."""
        limit_s: float = self.limits.seconds
        return max(self.step / self.settings.steps, self.seconds / limit_s)

    def log(self, **values: Any) -> None:
        """A line of JSON in the log and on the screen."""
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
        print(f"{self.folder.name} {json.dumps(values)}", flush=True)

    def where(self) -> dict[str, Any]:
        """How far the run is, for the log."""
        tokens = self.step * self.settings.batch * self.settings.row
        return {"step": self.step, "tokens": tokens, "seconds": self.seconds}

    def measure(self) -> None:
        """Log what the model can do by now."""
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):
            self.log(**self.where(), **self.probe(self.model))
        self.model.train()

    def write_checkpoint(self) -> None:
        """Replace the last checkpoint; one that is half written never stands in its place."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        state |= {"step": self.step, "seconds": self.seconds, "settings": asdict(self.settings)}
        torch.save(state, self.checkpoint.with_suffix(".new"))
        self.checkpoint.with_suffix(".new").replace(self.checkpoint)

    def gradients(self) -> Tensor:
        """Forward and backward over the rows of a step; mean losses [4], as `loss_of` makes them."""
        losses = torch.zeros(4, device=self.model.device)
        for _ in range(self.settings.batch):
            row = next(self.rows)
            ids, target, weight, cu_seqlens = step_inputs(row, self.model.device)
            with torch.autocast(self.model.device.type, torch.bfloat16):
                hidden = hidden_states(self.model, ids, cu_seqlens, row.max_seqlen)
                parts = self.loss(self.model.lm_head.weight, hidden, target, weight)
            (parts[0] / self.settings.batch).backward()
            losses += parts.detach() / self.settings.batch
        return losses

    def update(self, rate: float) -> float:
        """One step of the optimisers, left out where the gradient is not finite; the gradient's norm."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            if norm.isfinite():
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return norm.item()

    def run(self) -> None:
        """Train until the tokens or the seconds are over, and leave the model, then what it can do."""
        settings, limits = self.settings, self.limits
        self.log(
            settings=asdict(settings),
            steps=settings.steps,
            parameters=self.model.num_parameters(),
            device=str(self.model.device),
        )
        measured = int(self.progress * (limits.probes + 1))
        while (progress := self.progress) < 1:
            self.done.value = max(self.skipped, self.seconds / limits.seconds)
            losses = self.gradients()
            norm = self.update(settings.rate(self.step, progress))
            if self.step % limits.log_every == 0:
                names = ("loss", "text", "answer", "avoided")
                told = zip(names, (round(loss, 4) for loss in losses.tolist()), strict=True)
                self.log(**self.where(), **dict(told), norm=norm)
            if measured < int(progress * (limits.probes + 1)):
                measured += 1
                self.measure()
            if self.step % limits.save_every == 0:
                self.write_checkpoint()
        save(self.model, limits.work / "tokenizer", self.folder / "model")
        self.log(seconds=self.seconds, saved=str(self.folder / "model"))
        self.measure()


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", metavar="MODEL", help="folder of a model, whose weights the run goes on from")
    parser.add_argument("--architecture", choices=("llama", "qwen2", "qwen3"), default="qwen3")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--kv-heads", type=int, help="key-value heads; as many as query heads if not given")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--lr", type=float, default=2e-2)
    parser.add_argument("--tokens", type=float, default=1.6e9, help="of the whole run, at most")
    parser.add_argument("--row", type=int, default=131_072, help="tokens of a forward pass")
    parser.add_argument("--batch", type=int, default=2, help="rows of an optimiser step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1140, help="of the whole run, at most")
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
    Training(limits, settings).run()


if __name__ == "__main__":
    main()
