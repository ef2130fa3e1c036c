"""Head tables: how much each query head of a model looks at a planted fact while it says it.

A case is a prompt in which a fact stands somewhere, and the answer that repeats it. One pass over both, the answer as
it should be, shows what every head attends to when each of the answer's tokens is chosen. Budgets and policies take
the table (`corm_batch/budgets/head_table.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.text_batch import TextBatch
from corm_batch.errors import UnsupportedModelError
from corm_batch.evaluation.facts import PLACES, THINGS
from corm_batch.ops.dense import attention_scores
from corm_batch.tasks.base import Prompt
from corm_batch.text.spans import changed_span
from corm_batch.text.tokenize import PromptTokenizer

Method = Literal["retrieval", "retrieval_reasoning"]


@dataclass(frozen=True)
class FactCase:
    """A prompt with a fact in it.

    Attributes:
        token_ids: of the prompt.
        fact: where in it the fact stands.
        answer_ids: what is to be said.
    """

    token_ids: tuple[int, ...]
    fact: range
    answer_ids: tuple[int, ...]


def fact_cases(
    tokenizer: PromptTokenizer, answer_tokenizer: Any, text: str, num_chars: int, count: int, seed: int
) -> Iterator[FactCase]:
    """Numbers of places, each planted in a piece of natural text and asked for.

    Args:
        tokenizer: lays prompts out as jobs do.
        answer_tokenizer: the transformers tokenizer of the same model.
        text: natural text, longer than `num_chars`.
        num_chars: characters of a piece.
        count: cases.
        seed: of every draw.
    """
    draw = random.Random(seed)
    for _ in range(count):
        start = draw.randrange(max(1, len(text) - num_chars))
        piece = text[start : start + num_chars]
        ends = [i + 2 for i in range(len(piece) - 2) if piece[i : i + 2] == ". "] or [len(piece)]
        cut = draw.choice(ends)
        name, value = f"{draw.choice(THINGS)} of the {draw.choice(PLACES)}", str(draw.randrange(10**4, 10**6))
        question = f"What is the {name}?"
        planted = f"{piece[:cut]}\nThe {name} is {value}.\n{piece[cut:]}"
        token_ids = tokenizer.encode(Prompt(planted, question))
        fact = changed_span(token_ids, tokenizer.encode(Prompt(piece, question)))
        yield FactCase(token_ids, fact, tuple(answer_tokenizer(value, add_special_tokens=False)["input_ids"]))


class _Watched(TextBatch):
    """A prompt and its answer in one pass, and what heads attend to where the answer's tokens are chosen."""

    def __init__(self, case: FactCase, method: Method, device: torch.device) -> None:
        super().__init__(torch.tensor([*case.token_ids, *case.answer_ids[:-1]], device=device))
        self.case, self.method = case, method
        self.logit_rows = self.positions[len(case.token_ids) - 1 :]
        self.said = torch.tensor(case.answer_ids, device=device)
        self.scores: dict[int, Tensor] = {}

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Causal attention, looked at in the rows that choose the answer."""
        out, lse = self.attend_causally(query_HTD, key_KTD, value_KTD, features)
        rows = self.logit_rows
        scores = attention_scores(query_HTD[:, rows], key_KTD, features.scale, features.softcap).flatten(0, 1)
        near = self.positions > rows[:, None] - (features.window or len(self.input_ids))
        visible = (self.positions <= rows[:, None]) & near
        weight = torch.exp(scores - lse[:, rows, None]).masked_fill_(~visible, 0.0)
        self.scores[layer] = self._looked_at(weight)
        return out

    def _looked_at(self, weight_HRT: Tensor) -> Tensor:
        """[H]: how much each head looks at the fact, mean over the rows."""
        fact, size = self.case.fact, len(self.case.fact)
        if self.method == "retrieval":  # the fact's token of most attention is the one that is said
            top = weight_HRT.argmax(dim=-1)
            hit = (top >= fact.start) & (top < fact.stop) & (self.input_ids[top] == self.said)
            return hit.float().sum(dim=-1) / size
        highest, index = weight_HRT.topk(min(size, weight_HRT.shape[-1]), dim=-1)
        inside = (index >= fact.start) & (index < fact.stop)
        return (highest * inside).sum(dim=-1).mean(dim=-1) / size


@torch.inference_mode()
def measure_heads(model: LoadedModel, cases: Iterable[FactCase], method: Method) -> list[list[float]]:
    """A score for every query head, [layer][head], mean over the cases.

    Args:
        model: to look at.
        cases: at least one.
        method: "retrieval" counts how often the token a head attends to most stands in the fact and is the one that is
            said next, as a share of the fact's tokens (retrieval heads, arXiv 2404.15574); "retrieval_reasoning" sums
            up the weights on the fact's tokens, as far as these are among the highest, as many as the fact has tokens
            (HeadKV-R2, arXiv 2410.19258, section 3.1).

    Raises:
        UnsupportedModelError: its layers share keys of distant tokens, by which heads would have to be looked at.
    """
    if model.shape.groups is not None:
        raise UnsupportedModelError("model.name: heads of a model whose layers share keys (pod) are not measured")
    found = []
    for case in cases:
        batch = _Watched(case, method, model.device)
        model.forward(batch)
        found.append(torch.stack([batch.scores[layer] for layer in range(model.shape.num_layers)]).cpu())
    table: list[list[float]] = np.round(torch.stack(found).mean(dim=0).double().numpy(), 7).tolist()
    return table
