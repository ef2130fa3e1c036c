"""EngineStats: what an engine has done so far, and each document's share of the time it took."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

from corm_batch.engine.sequence import Sequence
from corm_batch.engine.work import Prefill, Span, Work


@dataclass
class EngineStats:
    """Counters of one engine, from its start.

    Attributes:
        prompt_tokens, output_tokens: tokens prefilled, and tokens chosen for sequences that had not ended.
        prefill_s, decode_s: seconds in either kind of step, as the host sees them.
        decode_steps: forward passes of one token a sequence.
        most_in_flight: sequences with entries in the cache at one time.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0
    most_in_flight: int = 0

    def spent(self, work: Work, seconds: float) -> None:
        """Count a whole step, what was decided before and after the forward pass included."""
        if isinstance(work, Prefill):
            self.prefill_s += seconds
        else:
            self.decode_s += seconds

    def prefilled(self, spans: abc.Sequence[Span], seconds: float) -> None:
        """Count a pass over prompts; its documents share its seconds by tokens, so that their shares add up to them."""
        num_tokens = sum(span.num_tokens for span in spans)
        self.prompt_tokens += sum(span.num_tokens for span in spans if span.extra is None)
        for span in spans:
            span.sequence.prefill_s += seconds * span.num_tokens / num_tokens

    def decoded(self, sequences: abc.Sequence[Sequence], num_steps: int, seconds: float) -> None:
        """Count some decode steps; their documents share the seconds evenly."""
        self.decode_steps += num_steps
        for sequence in sequences:
            sequence.decode_s += seconds / len(sequences)
