"""Workload: a model's shape, documents of one length, answers of one length. Named, as data.

Weights and prompts are random, and random weights spread attention evenly: what CORM would keep of a trained model's
cache they cannot show. `max_kept` caps every head instead and stands for the kept ratio of a trained model.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict

from corm_batch.errors import SpecError
from corm_batch.ops.pages import kv_bytes, stored_bytes
from corm_batch.policies.base import KVPolicy
from corm_batch.storage.base import Storage

EngineName = Literal["corm", "full", "generate"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


class LlamaShape(BaseModel):
    """A Llama's counts: enough to make one with random weights, and to count what it computes and reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(input width, output width) of one layer's products: q with k and v, attention output, gate with up, down."""
        heads = self.head_dim * self.num_heads
        return (
            (self.hidden_size, heads + 2 * self.head_dim * self.num_kv_heads),
            (heads, self.hidden_size),
            (self.hidden_size, 2 * self.intermediate_size),
            (self.intermediate_size, self.hidden_size),
        )

    @property
    def prompt_parameters(self) -> int:
        """Weights every prompt token is multiplied with; the output head, once a document, is not among them."""
        return self.num_layers * sum(width * to for width, to in self.layer_matrices)

    @property
    def step_parameters(self) -> int:
        """Weights a decode step reads: all but the embedding table."""
        norms = (2 * self.num_layers + 1) * self.hidden_size
        return self.prompt_parameters + norms + self.vocab_size * self.hidden_size


class Workload(BaseModel):
    """What every engine is to do.

    Attributes:
        name: how the command line calls it.
        model: its shape.
        dtype: of weights and cache.
        prompt_tokens, output_tokens: of every document.
        documents: how many; batches of as many as `corm` holds at once, where that takes minutes, not hours.
        window, recent, max_kept: CORM's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: LlamaShape
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    prompt_tokens: int
    output_tokens: int = 256
    documents: int
    window: int = 256
    recent: int = 256
    max_kept: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch has it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers and kv heads of an uncompressed cache."""
        shape = self.model
        return shape.num_layers * shape.num_kv_heads * kv_bytes(shape.head_dim, self.torch_dtype)

    def stored_bytes_per_token(self, storage: Storage) -> int:
        """The same as pages hold and a query reads them."""
        shape = self.model
        return shape.num_layers * shape.num_kv_heads * stored_bytes(storage, shape.head_dim, self.torch_dtype)

    def policy(self, engine: EngineName) -> KVPolicy | None:
        """The cache policy of an engine; None for `generate`, which has none.

        Raises:
            SpecError: `max_kept` is below `recent`.
        """
        if engine == "generate":
            return None
        budget = {"name": "uniform", "max_kept": self.max_kept}
        corm = {"preset": "paper", "window": self.window, "recent": self.recent, "budget": budget}
        return KVPolicy.from_spec({"name": engine, **(corm if engine == "corm" else {})})


_LLAMA2_7B = LlamaShape(
    num_layers=32, hidden_size=4096, num_heads=32, num_kv_heads=32, head_dim=128, intermediate_size=11008,
    vocab_size=32000, rope_theta=1e4,
)  # fmt: skip
_LLAMA31_8B = LlamaShape(
    num_layers=32, hidden_size=4096, num_heads=32, num_kv_heads=8, head_dim=128, intermediate_size=14336,
    vocab_size=128256, rope_theta=5e5,
)  # fmt: skip
_LLAMA31_70B = LlamaShape(
    num_layers=80, hidden_size=8192, num_heads=64, num_kv_heads=8, head_dim=128, intermediate_size=28672,
    vocab_size=128256, rope_theta=5e5,
)  # fmt: skip
_TINY = LlamaShape(
    num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128, vocab_size=256,
    rope_theta=1e4,
)  # fmt: skip

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            name="tiny-256", model=_TINY, dtype="float32", prompt_tokens=256, output_tokens=32, documents=8, window=32,
            recent=32, max_kept=64,
        ),
        Workload(name="llama2-7b-4k", model=_LLAMA2_7B, prompt_tokens=4096, documents=376, max_kept=1024),
        Workload(name="llama2-7b-16k", model=_LLAMA2_7B, prompt_tokens=16384, documents=96, max_kept=2048),
        Workload(name="llama2-7b-32k", model=_LLAMA2_7B, prompt_tokens=32768, documents=56, max_kept=2048),
        Workload(name="llama2-7b-128k", model=_LLAMA2_7B, prompt_tokens=131072, documents=8, max_kept=2048),
        Workload(name="llama3.1-8b-4k", model=_LLAMA31_8B, prompt_tokens=4096, documents=424, max_kept=1024),
        Workload(name="llama3.1-8b-16k", model=_LLAMA31_8B, prompt_tokens=16384, documents=112, max_kept=2048),
        Workload(name="llama3.1-8b-32k", model=_LLAMA31_8B, prompt_tokens=32768, documents=56, max_kept=2048),
        Workload(name="llama3.1-8b-128k", model=_LLAMA31_8B, prompt_tokens=131072, documents=8, max_kept=2048),
        Workload(name="llama3.1-70b-16k", model=_LLAMA31_70B, prompt_tokens=16384, documents=80, max_kept=2048),
        Workload(
            name="llama3.1-8b-4k-long", model=_LLAMA31_8B, prompt_tokens=4096, output_tokens=1024, documents=424,
            max_kept=1024,
        ),
        Workload(
            name="llama3.1-8b-16k-long", model=_LLAMA31_8B, prompt_tokens=16384, output_tokens=1024, documents=112,
            max_kept=2048,
        ),
        Workload(
            name="llama3.1-70b-16k-long", model=_LLAMA31_70B, prompt_tokens=16384, output_tokens=1024, documents=80,
            max_kept=2048,
        ),
    )
}  # fmt: skip


def find_workload(name: str, documents: int | None = None, max_kept: int | None = None) -> Workload:
    """A workload by its name, with other counts where they are given.

    Raises:
        SpecError: there is none of that name; the message lists them.
    """
    if name not in WORKLOADS:
        raise SpecError(f"--workload: there is no {name!r}; known: {', '.join(WORKLOADS)}")
    changes = {"documents": documents, "max_kept": max_kept}
    return WORKLOADS[name].model_copy(update={key: value for key, value in changes.items() if value is not None})
