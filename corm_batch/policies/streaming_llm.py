"""StreamingLLM: keep the first few entries, which attention leans on, and the newest."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.ops.pages import NEVER
from corm_batch.policies.base import EvictingPolicy


class StreamingLLM(EvictingPolicy, name="streaming_llm"):
    """Keep the first `sinks` entries, the attention sinks, and the newest `recent` ones; nothing in between.

    Based on Efficient Streaming Language Models with Attention Sinks (arXiv 2309.17453), section 3.2. Deviations:
    * keys keep the rotary position they were born with; the paper counts positions inside the cache, which matters once
      a document is longer than the model's context, and this engine refuses such documents.
    * exact prefill reads the whole prompt with full attention and evicts at its end; with `prefill: streaming` every
      query sees what the paper lets it see.
    """

    sinks: int = Field(4, ge=0, description="first entries that never leave")
    recent: int = Field(1020, ge=1, description="newest entries that stay, a query's own included")

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """A quarter of a prompt."""
        return (cls(recent=max(1, num_tokens // 4)),)

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Never for the sinks; the last step whose newest `recent` entries hold it for the others."""
        return torch.where(position <= self.sinks, NEVER, position + (self.recent - 1))
