"""Texts that a job's model reads by the definition, one pass each, for what measures a model on them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from corm_batch.engine.loader import LoadedModel, load_model
from corm_batch.engine.text_batch import TextBatch
from corm_batch.pipeline.model import load_tokenizer, model_path
from corm_batch.spec import JobSpec


class Opened(NamedTuple):
    """A job and its model.

    Attributes:
        job: the job.
        path: the model's folder.
        model: loaded.
        encode: token ids of a text.
    """

    job: JobSpec
    path: str
    model: LoadedModel
    encode: Callable[..., list[int]]


def parser_of(description: str | None, job: str) -> argparse.ArgumentParser:
    """A command line with what `opened` needs and how many texts there are; `job`: help for that argument."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", help=job)
    parser.add_argument("--set", metavar="A.B=VALUE", action="append", default=[], help="change the job")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def opened(options: argparse.Namespace) -> Opened:
    """The job of a command line, its model in the job's type on the device that is asked for."""
    job = JobSpec.load(options.job, options.set)
    path, device = model_path(job.model), torch.device(options.device)
    model = load_model(path, getattr(torch, job.model.dtype), device, revision=job.model.revision)
    return Opened(job, path, model, load_tokenizer(job.model, path).text_ids)


def pieces(encode: Any, text: str, length: int, count: int, device: torch.device) -> Iterator[Tensor]:
    """[T] token ids of pieces, evenly spread over a text, each begun as the tokenizer begins one; none is shorter for
    being the last, and all are the whole text where that is no longer."""
    for number in range(count):
        start = min(number * len(text) // count, max(0, len(text) - 16 * length))
        yield torch.tensor(encode(text[start : start + 16 * length], begin=True)[:length], device=device)


def nats(model: LoadedModel, batches: Iterable[TextBatch]) -> Tensor:
    """[texts] by which the tokens of each are unlikely, mean over its tokens."""
    said = ((model.forward(batch)[:-1].float(), batch.input_ids[1:]) for batch in batches)
    return torch.stack([F.cross_entropy(logits, ids) for logits, ids in said])


def mean_loss(lost: Tensor) -> dict[str, float]:
    """Of what texts lose: the mean, and half of its 95 % interval."""
    half = 1.96 * float(lost.std()) / math.sqrt(len(lost))
    return {"nats": round(float(lost.mean()), 4), "half": round(half, 4)}
