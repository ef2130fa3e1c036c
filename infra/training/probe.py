"""What the model can do and how sparse its attention is, measured by forward passes alone while it trains.

A greedy answer equals the expected one exactly when, given the expected answer's beginning, the model prefers each next
token of it; so one forward pass over text, question and answer tells what generation would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedModel

from corm_batch.evaluation.haystack import Ids
from infra.training.attention import Meter, hidden_states
from infra.training.compose import ANSWER_WEIGHT, DOCUMENT, Composer, Instructions
from infra.training.facts import TASKS

BOOKS = Path(__file__).parent / "evaluation/books.parquet"


@dataclass(frozen=True)
class Probe:
    """Held-out books and how much of them to look at.

    Attributes:
        composer: draws tasks over the held-out haystack books.
        books: the perplexity books as token ids.
        lengths: of the cases, in tokens; the last one is that of perplexity and sparsity too.
        cases: of each task and length.
        row: tokens a forward pass takes.
    """

    composer: Composer
    books: list[Ids]
    lengths: tuple[int, ...]
    cases: int
    row: int

    @classmethod
    def load(cls, template: Composer, lengths: tuple[int, ...], cases: int, row: int) -> Probe:
        """Over the books of the evaluation folder, with the tokenizer and words of another composer."""
        texts = pq.read_table(BOOKS, columns=["kind", "text"]).to_pylist()
        encoded = {
            kind: [template.encode(t["text"]) for t in texts if t["kind"] == kind]
            for kind in ("haystack", "perplexity")
        }
        haystack = np.concatenate(encoded["haystack"])
        composer = Composer(template.tokenizer, haystack, template.words, Instructions([], []), "probe")
        return cls(composer, encoded["perplexity"], lengths, cases, row)

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel) -> dict[str, object]:
        """All measurements of one model."""
        self.composer.random.seed("probe")
        exact = {
            str(length): {task.__name__: round(self.exact(model, task.__name__, length), 3) for task in TASKS}
            for length in self.lengths
        }
        return {"exact": exact, "perplexity": round(self.perplexity(model), 2), "layers": self.sparsity(model)}

    def exact(self, model: PreTrainedModel, task: str, length: int) -> float:
        """Share of the cases whose whole answer the model gives."""
        cases: list[tuple[Ids, np.ndarray]] = []
        while len(cases) < self.cases:
            document, questions = self.composer.facts(length - 96, task)
            sequence, weight = self.composer.sequence(document, questions[:1])
            if len(sequence) <= length:
                cases.append((sequence, weight == ANSWER_WEIGHT))
        right = 0
        for batch in batched(cases, self.row):
            hidden = forward(model, [ids for ids, _ in batch])
            answer = torch.from_numpy(np.concatenate([answer for _, answer in batch])).to(hidden.device)
            ids = torch.from_numpy(np.concatenate([ids for ids, _ in batch]).astype(np.int64)).to(hidden.device)
            owner = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor([len(ids) for ids, _ in batch]))
            rows = answer.nonzero()[:, 0]
            wrong = model.lm_head(hidden[rows - 1]).argmax(-1) != ids[rows]
            right += len(batch) - len(owner.to(wrong.device)[rows][wrong].unique())
        return right / len(cases)

    def perplexity(self, model: PreTrainedModel) -> float:
        """On whole windows of the longest length, each after the document mark."""
        length = self.lengths[-1]
        losses = []
        for book in self.books:
            for start in range(0, len(book) - length + 2, length - 1):
                ids = np.concatenate([self.composer.special[DOCUMENT], book[start : start + length - 1]])
                logits = model.lm_head(forward(model, [ids])[:-1]).float()
                target = torch.from_numpy(ids[1:].astype(np.int64)).to(logits.device)
                losses.append(torch.nn.functional.cross_entropy(logits, target).item())
        return math.exp(sum(losses) / len(losses))

    def sparsity(self, model: PreTrainedModel) -> list[dict[str, float]]:
        """A meter's shares for every layer, averaged over one case of every task at the longest length."""
        meters = []
        for task in TASKS:
            document, questions = self.composer.facts(self.lengths[-1] - 96, task.__name__)
            meters.append(Meter())
            forward(model, [self.composer.sequence(document, questions[:1])[0]], meters[-1])
        return [
            {name: round(sum(shares[name] for shares in layer) / len(layer), 4) for name in layer[0]}
            for layer in zip(*(meter.layers for meter in meters), strict=True)
        ]


def batched(cases: list[tuple[Ids, np.ndarray]], row: int) -> Iterator[list[tuple[Ids, np.ndarray]]]:
    """Cases in groups of at most `row` tokens, a longer one alone."""
    batch: list[tuple[Ids, np.ndarray]] = []
    for case in cases:
        if batch and sum(len(ids) for ids, _ in batch) + len(case[0]) > row:
            yield batch
            batch = []
        batch.append(case)
    yield batch


def forward(model: PreTrainedModel, sequences: list[Ids], meter: Meter | None = None) -> Tensor:
    """Last hidden states [T, hidden] of packed sequences."""
    device = model.device
    lengths = [len(ids) for ids in sequences]
    ids = torch.from_numpy(np.concatenate(sequences).astype(np.int64)).to(device)
    cu_seqlens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        return hidden_states(model, ids, cu_seqlens, max(lengths), meter)
