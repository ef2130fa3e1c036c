"""EngineStats: what an engine has done so far."""

from __future__ import annotations

from dataclasses import dataclass


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
