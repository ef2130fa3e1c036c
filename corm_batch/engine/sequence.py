"""Sequence: one request's tokens and progress. Holds counts and times, decides nothing."""

from __future__ import annotations

import math
import random
import time
from collections import abc
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.request import FinishReason, Request, TokenLogprob
from corm_batch.grammar.matcher import Matcher
from corm_batch.kv.stage import SwappedCache
from corm_batch.policies.reading import ExtraPass


class Chosen(NamedTuple):
    """The tokens that a step chose for one sequence, their log-probabilities, NaN where logits were not finite, and
    those of the likeliest tokens in their places; and as many likeliest tokens there as any request of the step asks
    for, with their log-probabilities."""

    tokens: list[int]
    logprobs: list[float]
    best_logprobs: list[float]
    likeliest: list[list[int]]
    likeliest_logprobs: list[list[float]]

    def part(self, start: int, stop: int) -> Chosen:
        """Those from `start` to before `stop`."""
        return Chosen._make(column[start:stop] for column in self)


class Settled(NamedTuple):
    """What a reading holds once it is read, on all ranks: nothing of it changes any more.

    Attributes:
        longest: [L] entries of the longest list of each layer.
        lasting: [L] bool, whether no entry of the layer ever expires.
    """

    longest: np.ndarray
    lasting: np.ndarray


class Sequence:
    """A request on its way through the engine.

    Args:
        request: what was asked.
        arrival: its place in the order of arrival; a smaller number goes first and is preempted last.
        num_layers: layers of the model that have entries.
        device: where the statistic of what left is added up.
        source: the reading that it begins with; None where it reads its whole prompt itself.
        is_reading: it is one, and has no answer.
    """

    def __init__(
        self,
        request: Request,
        arrival: int,
        num_layers: int,
        device: torch.device,
        source: Sequence | None = None,
        is_reading: bool = False,
    ) -> None:
        self.request = request
        self.arrival = arrival
        self.source, self.is_reading = source, is_reading
        self.num_questions = 0  # over a reading, unfinished
        self.settled: Settled | None = None  # of a reading that is read
        self.output: list[int] = []
        self.num_prefilled = self.num_shared
        self.extra_passes: abc.Sequence[ExtraPass] = ()  # what the model reads behind the prompt
        self.num_extra_passes = 0  # of these, done
        self.beginning: Chosen | None = None  # of the answer: chosen at the prompt's end, kept until all is read
        self.num_compacted = 0  # output tokens there were at the last compaction
        self.slot = -1
        self.swapped: SwappedCache | None = None
        self._rng = random.Random(f"{request.sampling.seed}:{request.id}")
        self._drawn: list[float] = []
        self.logprobs: list[float] = []  # of the output's tokens
        self.best_logprobs: list[float] = []  # of the likeliest tokens in their places
        self.told: list[tuple[TokenLogprob, ...]] = []  # what `Completion.logprobs` says, where it is asked for
        self.matcher: Matcher | None = None  # where the answer stands in its grammar, if it has one
        self.prompt_tokens_seen: Tensor | None = None  # [V] bool, where a rule asks for it
        self.lost_statistic = torch.zeros(num_layers, device=device)
        self.num_votes = np.zeros(num_layers, np.int64)  # queries of the prompt that voted, by layer
        self.notes: dict[int, dict[str, Any]] = {}  # by layer: what a policy remembers of the prompt until its end
        self.preemptions = 0
        self.peak_pages = 0
        self.pages_after_prefill = 0
        self.arrived_at = time.monotonic()
        self.ready_at = self.arrived_at  # from here on only room is lacking: of a question, once its reading is there
        self.started_at: float | None = None
        self.prefill_s = 0.0
        self.decode_s = 0.0

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt, those of its reading included."""
        return self.request.num_prompt_tokens

    @property
    def num_shared(self) -> int:
        """Tokens whose entries are its reading's."""
        return 0 if self.source is None else self.source.num_prompt_tokens

    @property
    def place(self) -> tuple[int, int]:
        """Arrivals of what it begins with and of itself: an order in which those over one reading are neighbours."""
        return (self.source or self).arrival, self.arrival

    @property
    def stores(self) -> bool:
        """Whether it has entries in the cache; one without is scored by one exact pass over prompt and answer."""
        return self.request.answer_ids is None or not self.request.uncompressed

    @property
    def num_chosen_at_once(self) -> int:
        """Tokens that its last prefill chooses: the first, the whole answer that one pass scores; of a reading none."""
        if self.is_reading:
            return 0
        return 1 if self.stores else self.request.most_new_tokens

    @property
    def num_to_prefill(self) -> int:
        """Tokens that prefill reads."""
        return self.num_prompt_tokens + max(0, self.num_chosen_at_once - 1)

    @cached_property
    def to_prefill(self) -> np.ndarray:
        """[T] int64, these tokens: the prompt, and of an answer that one pass scores all but the last."""
        answer = self.answer[: max(0, self.num_chosen_at_once - 1)]
        return np.concatenate([np.asarray(ids, np.int64) for ids in (*self.request.prompt_parts, answer)])

    @property
    def keeps_all(self) -> bool:
        """Whether nothing of it may leave: it was asked so, or the model is still to read what is behind its prompt."""
        return self.request.uncompressed or self.num_extra_passes < len(self.extra_passes)

    @property
    def longest_extra_pass(self) -> int:
        """Tokens of the longest pass behind the prompt; 0 where there is none."""
        return max((len(one.token_ids) for one in self.extra_passes), default=0)

    @property
    def answer(self) -> abc.Sequence[int]:
        """The answer to score, or what has been written."""
        return self.output if self.request.answer_ids is None else self.request.answer_ids

    @property
    def num_cached(self) -> int:
        """Tokens fed to the model so far, also the last step taken: the newest output token is still to come."""
        return self.num_prefilled + max(0, len(self.output) - self.num_chosen_at_once)

    @property
    def max_len(self) -> int:
        """Tokens of prompt and answer, should the answer be as long as it may."""
        return self.num_prompt_tokens + self.request.most_new_tokens

    def may_end(self, tokens: abc.Sequence[int], eos_token_ids: abc.Set[int]) -> bool:
        """Whether the answer may end with one of its next tokens; False is certain."""
        if len(self.output) + len(tokens) >= self.request.most_new_tokens:
            return True
        if self.request.answer_ids is not None:
            return False
        looked_at = self.matcher is not None or self.request.stop is not None
        return looked_at or not self._ends(eos_token_ids).isdisjoint(tokens)

    def finish_reason(self, output: list[int], eos_token_ids: abc.Set[int]) -> FinishReason | None:
        """Why the newest token of `output` ends the answer; None when it does not."""
        if self.request.answer_ids is None and self._stops(output, eos_token_ids):
            return "stop"
        return "length" if len(output) >= self.request.most_new_tokens else None

    def extend(self, chosen: Chosen) -> None:
        """Take the next tokens of the answer."""
        self.output += chosen.tokens
        self.logprobs += chosen.logprobs
        self.best_logprobs += chosen.best_logprobs
        if (most := self.request.num_likeliest) is not None:
            for token, logprob, _, tokens, logprobs in zip(*chosen, strict=True):
                likeliest = map(TokenLogprob, tokens[:most], logprobs)
                self.told.append((TokenLogprob(token, logprob), *(one for one in likeliest if one.logprob > -math.inf)))

    def restart(self) -> None:
        """Forget a prefill that was given up before its first token."""
        self.num_prefilled, self.slot, self.peak_pages = self.num_shared, -1, 0
        self.num_extra_passes, self.beginning = 0, None
        self.lost_statistic.zero_()
        self.num_votes[:] = 0
        self.notes.clear()
        self.preemptions += 1

    def _stops(self, output: list[int], eos_token_ids: abc.Set[int]) -> bool:
        """Whether the newest token ends an answer that is written."""
        stop, ends = self.request.stop, output[-1] in self._ends(eos_token_ids)
        ends |= self.matcher is not None and self.matcher.is_whole_at(len(output))
        return ends or (stop is not None and stop(output))

    def _ends(self, eos_token_ids: abc.Set[int]) -> abc.Set[int]:
        """Tokens that end an answer that is written, whatever stands before them."""
        sampling = self.request.sampling
        return frozenset(sampling.stop_token_ids).union(() if sampling.ignore_eos else eos_token_ids)

    def drawn(self, first: int, count: int) -> list[float]:
        """Random numbers in [0, 1) for so many tokens of the answer, `first` on: the same whenever they are asked for,
        should a step be taken again."""
        while len(self._drawn) < first + count:
            self._drawn.append(self._rng.random())
        return self._drawn[first : first + count]


class Row(NamedTuple):
    """A row of logits: the token of a sequence's answer that comes behind `num_new` others."""

    sequence: Sequence
    num_new: int

    @property
    def before(self) -> np.ndarray:
        """[T] int64, the tokens of prompt and answer before it."""
        prompt = self.sequence.to_prefill[: self.sequence.num_prompt_tokens]
        return np.concatenate((prompt, np.asarray(self.sequence.answer[: self.num_new], np.int64)))
