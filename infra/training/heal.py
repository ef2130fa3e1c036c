"""Teach a converted model to say what the model it was made of says, on one GPU, in minutes.

    corm-batch convert jobs/quickstart/job.yaml --weights '{name: kv_heads, num_kv_heads: 3}' \\
        --license 'in column license' --output models/heads-3
    python -m infra.training.heal jobs/quickstart/job.yaml models/heads-3 models/heads-3-healed --seconds 900

The job's model is the teacher, and its documents are the texts: pieces of them, and facts planted in such pieces with
a question and the answer (the suites of `corm-batch eval`, other facts than those). At every token the student is to
have the teacher's distribution (Kullback-Leibler divergence), an answer's tokens counting more. All weights are
trained, by AdamW; where the student's layers share keys of distant tokens they do so here, too, and its config says
that it was trained. `conversion.json` goes on into the new folder, with what was done here. It ends after `--seconds`
or `--tokens`; the rate falls to zero by whichever is nearer.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from corm_batch.engine.plain import load_plain
from corm_batch.evaluation.asking import lay_out
from corm_batch.evaluation.base import Suite
from corm_batch.evaluation.run import job_texts
from corm_batch.pipeline.model import load_tokenizer, model_path
from corm_batch.spec import JobSpec
from corm_batch.weights.conversion import RECORD, write

SUITES = ("needles", "key_value", "lines", "lists")
ANSWER_WEIGHT = 8.0
"""Of an answer's token, where one of a text counts 1."""
SEED = "heal"


@dataclass(frozen=True)
class Row:
    """Tokens to read, and how much it counts what is said behind each: [T] both."""

    ids: tuple[int, ...]
    weight: tuple[float, ...]


def compose(job: JobSpec, lengths: Sequence[int], count: int, seed: str = SEED) -> dict[int, list[Row]]:
    """Rows of each length, half of them with a question: `count` of each suite's tasks, and as many plain ones."""
    tokenizer, texts = load_tokenizer(job.model, model_path(job.model)), job_texts(job)
    suites = {name: Suite.from_spec({"name": name}) for name in SUITES}
    whole = tokenizer.text_ids("\n\n".join(texts))
    draw, rows = random.Random(seed), {length: list[Row]() for length in lengths}
    for length in lengths:
        for one in lay_out(suites, tokenizer, [length], count, seed, texts):
            ids = *one.prompt, *tokenizer.text_ids(f" {one.case.answers[0]}")
            said = len(ids) - len(one.prompt)
            weights = [1.0] * (len(one.prompt) - 1) + [ANSWER_WEIGHT] * (said + 1)
            rows[length].append(Row(ids[:length], tuple(weights[:length])))
            begun = tokenizer.text_ids("", begin=True)
            start = draw.randrange(max(1, len(whole) - length))
            piece = *begun, *whole[start : start + length - len(begun)]
            rows[length].append(Row(piece, (1.0,) * len(piece)))
    return rows


def batches(rows: dict[int, list[Row]], tokens: int, seed: str = SEED) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of one length, in an order drawn anew every time: ids and weights, [B, T], as many as make `tokens`."""
    draw = random.Random(seed)
    while True:
        length = draw.choice(list(rows))
        taken = draw.choices(rows[length], k=max(1, tokens // length))
        longest = max(len(row.ids) for row in taken)
        ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in taken])
        weight = torch.tensor([[*row.weight, *[0.0] * (longest - len(row.weight))] for row in taken])
        yield ids, weight


def divergence(teacher_BTV: Tensor, student_BTV: Tensor, weight_BT: Tensor) -> Tensor:
    """Mean over tokens of what the student's distribution lacks of the teacher's, in nats."""
    wanted, said = (logits.float().log_softmax(dim=-1) for logits in (teacher_BTV, student_BTV))
    each = (wanted.exp() * (wanted - said)).sum(dim=-1)
    return (each * weight_BT).sum() / weight_BT.sum()


def heal(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    feed: Iterator[tuple[Tensor, Tensor]],
    limits: argparse.Namespace,
) -> list[dict[str, float]]:
    """Train the student in place; what was measured on the way."""
    device, started, seen = student.device, time.monotonic(), 0
    decayed = [one for one in student.parameters() if one.ndim > 1]
    others = [one for one in student.parameters() if one.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=limits.lr, betas=(0.9, 0.95))
    log, losses = list[dict[str, float]](), list[float]()
    while (done := max((time.monotonic() - started) / limits.seconds, seen / limits.tokens)) < 1:
        ids, weight = (tensor.to(device) for tensor in next(feed))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            with torch.no_grad():
                wanted = teacher(input_ids=ids, use_cache=False).logits
            loss = divergence(wanted, student(input_ids=ids, use_cache=False).logits, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = limits.lr * min(1.0, (seen + ids.numel()) / limits.warm_up) * (1 - done)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += ids.numel()
        losses.append(loss.item())
        if len(losses) % limits.log_every == 0 or not log:
            newest = losses[-limits.log_every :]
            mean, passed = sum(newest) / len(newest), time.monotonic() - started
            log.append({"tokens": seen, "seconds": round(passed, 1), "divergence": round(mean, 4)})
            print(json.dumps(log[-1]), flush=True)
    return log


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, train, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", help="whose model the teacher is, and whose documents are read")
    parser.add_argument("model", type=Path, help="folder of the converted model")
    parser.add_argument("output", type=Path, help="folder of the trained one; must not be there")
    parser.add_argument("--set", metavar="A.B=VALUE", action="append", default=[], help="change the job")
    parser.add_argument("--seconds", type=float, default=900, help="of training, at most")
    parser.add_argument("--tokens", type=float, default=3e8, help="of training, at most")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warm-up", type=float, default=1e5, help="tokens until the rate is full")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 7168], help="tokens of a row")
    parser.add_argument("--rows", type=int, default=40, help="of each suite's tasks and each length")
    parser.add_argument("--batch", type=int, default=16384, help="tokens of a step")
    parser.add_argument("--log-every", type=int, default=20, help="steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    limits = parser.parse_args(arguments)
    if limits.output.exists():
        raise SystemExit(f"{limits.output}: is there already")
    job = JobSpec.load(limits.job, limits.set)
    torch.manual_seed(0)
    device = torch.device(limits.device)
    teacher = load_plain(model_path(job.model), device, job.model.revision).requires_grad_(False)
    student = load_plain(str(limits.model), device)
    feed = batches(compose(job, limits.lengths, limits.rows), limits.batch)
    log = heal(teacher, student.train(), feed, limits)
    told = {name: value for name, value in vars(limits).items() if name not in ("job", "set", "model", "output")}
    record = json.loads((limits.model / RECORD).read_text(encoding="utf-8"))
    if groups := getattr(student.config, "pod", None):
        student.config.pod = groups | {"trained": True}
    record["healed"] = {**told, "source": job.source.place, "log": log}
    write(student.eval(), str(limits.model), limits.output, record)
    print(f"{limits.output}: {log[-1]['tokens']:,} tokens, {log[0]['divergence']} to {log[-1]['divergence']} nats")


if __name__ == "__main__":
    main()
