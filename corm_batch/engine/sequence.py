"""Sequence: one request's tokens and progress. Holds counts and times, decides nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from corm_batch.engine.request import FinishReason, Request
from corm_batch.kv.cache import SwappedCache


class Sequence:
    """A request on its way through the engine.

    Args:
        request: what was asked.
        arrival: its place in the order of arrival; a smaller number goes first and is preempted last.
        num_layers: layers of the model.
        device: where the statistic of what left is added up.
    """

    def __init__(self, request: Request, arrival: int, num_layers: int, device: torch.device) -> None:
        self.request = request
        self.arrival = arrival
        self.output: list[int] = []
        self.num_prefilled = 0
        self.num_compacted = 0  # output tokens there were at the last compaction
        self.slot = -1
        self.swapped: SwappedCache | None = None
        self.rng = random.Random(f"{request.sampling.seed}:{request.id}")
        self.logprob_sum = 0.0
        self.prompt_tokens_seen: Tensor | None = None  # [V] bool, where a rule asks for it
        self.lost_statistic = torch.zeros(num_layers, device=device)
        self.notes: dict[int, dict[str, Any]] = {}  # by layer: what a policy remembers of the prompt until its end
        self.preemptions = 0
        self.peak_pages = 0
        self.pages_after_prefill = 0
        self.arrived_at = time.monotonic()
        self.started_at: float | None = None
        self.prefill_s = 0.0
        self.decode_s = 0.0

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.token_ids)

    @property
    def num_cached(self) -> int:
        """Tokens fed to the model so far, also the last step taken: the newest output token is still to come."""
        return self.num_prefilled + max(0, len(self.output) - 1)

    @property
    def max_len(self) -> int:
        """Tokens of prompt and answer, should the answer be as long as it may."""
        return self.num_prompt_tokens + self.request.sampling.max_new_tokens

    def finish_reason(self, output: list[int], eos_token_ids: Container[int]) -> FinishReason | None:
        """Why the newest token of `output` ends the answer; None when it does not."""
        if output[-1] in eos_token_ids and not self.request.sampling.ignore_eos:
            return "stop"
        if output[-1] in self.request.sampling.stop_token_ids:
            return "stop"
        if self.request.stop is not None and self.request.stop(output):
            return "stop"
        return "length" if len(output) >= self.request.sampling.max_new_tokens else None

    def restart(self) -> None:
        """Forget a prefill that was given up before its first token."""
        self.num_prefilled, self.slot, self.peak_pages = 0, -1, 0
        self.lost_statistic.zero_()
        self.notes.clear()
        self.preemptions += 1
