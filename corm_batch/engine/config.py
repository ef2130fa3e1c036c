"""EngineConfig: how one replica uses its memory and its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from corm_batch.engine.sharing import LayerSharing
from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.propagation.base import PropagationField, propagation_problem
from corm_batch.registry import SAME_ANSWERS, describe
from corm_batch.storage.base import Storage, StorageField

WeightForm = Literal["stored", "fp8"]
"""How a model's weights are held: as its checkpoint stores them, or the linear layers of its blocks in 8 bits."""
_CPU_POOL_BYTES = 1 << 30
"""The pool of a CPU engine that was given no size."""


class EngineConfig(BaseModel):
    """Settings of one engine. Those without the mark may change what is kept, and with it the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefill: Literal["exact", "streaming"] = Field(
        "exact", description="exact: the whole prompt at once, attention not approximated; streaming: chunk after chunk"
    )
    storage: StorageField | None = Field(
        None,
        description="form of kept entries, by name; model: as the model computes them; fp8, int8, int4: in fewer bits; "
        "default: int8 where a model of 16 bits bears it and the policy evicts, else model",
    )
    page_size: Annotated[int, SAME_ANSWERS] = Field(
        16, ge=1, le=1024, description="entries a page; more where a layer's are narrower than another's"
    )
    kv_memory: Annotated[ByteSize | None, SAME_ANSWERS] = Field(
        None, description="bytes of the page pool, such as 512MiB; default: measured"
    )
    memory_fraction: Annotated[float, SAME_ANSWERS] = Field(
        0.95, gt=0, le=1, description="share of what the largest forward pass leaves free that the pool may take"
    )
    max_model_len: int | None = Field(None, ge=2, description="tokens of prompt plus answer; default: the model's")
    max_sequences: Annotated[int, SAME_ANSWERS] = Field(256, ge=1, description="documents in flight at most")
    step_token_budget: Annotated[int, SAME_ANSWERS] = Field(
        16384, ge=1, description="prompt tokens packed into one forward"
    )
    chunk_size: int = Field(2048, ge=1, description="tokens of one document a streaming forward takes")
    room_for_scoring: Annotated[bool, SAME_ANSWERS] = Field(
        False,
        description="streaming: a measured pool leaves room for an exact pass over the whole context, as scoring an "
        "answer takes; verification turns it on",
    )
    tensor_parallel: Annotated[int, SAME_ANSWERS] = Field(  # but under a policy that counts the heads of a rank
        1, ge=1, description="GPUs of one machine that share each replica"
    )
    compact_every: int | None = Field(
        None, ge=1, description="decode steps between compactions; default: window / 2, at most 128"
    )
    propagation: PropagationField | None = Field(
        None,
        description="which of a prompt's tokens go on to the model's later layers, as {name: attention}; default: all",
    )

    sharing: LayerSharing = Field(
        {},
        description="layers that read an earlier one's entries and have none, as {7: 2}, counted from 0, or a JSON "
        "file of them",
    )

    @model_validator(mode="after")
    def _all_tokens_are_there(self) -> Self:
        """Refuse layers that would read entries of tokens that they do not run."""
        if self.sharing and self.propagation is not None:
            raise SpecError(
                f"engine.sharing: not with engine.propagation: {self.propagation.name}, which leaves tokens behind "
                "between layers, and those that share entries have to run the same ones: leave one of them out"
            )
        return self

    def storing(self, usual: Storage) -> Self:
        """With a form of storage that is named: its own, or else the `usual` one."""
        return self if self.storage is not None else self.model_copy(update={"storage": usual})

    @property
    def form(self) -> Storage:
        """The form of storage that is named.

        Raises:
            ValueError: none is; `storing` names one.
        """
        if self.storage is None:
            raise ValueError("engine.storage is not named yet")
        return self.storage

    def find_problem(self, policy: KVPolicy) -> str | None:
        """Why these settings make no sense under a policy; None when they do."""
        return propagation_problem(self.propagation, policy)

    def pool_bytes(self, device: str) -> int | None:
        """Bytes for the page pool on a "cuda" or "cpu" device, as far as they are known without a model; None where
        they have to be measured."""
        if self.kv_memory is not None:
            return int(self.kv_memory)
        return None if device == "cuda" else _CPU_POOL_BYTES

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """The settings with these fields.

        Raises:
            SpecError: one is unknown or wrong.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SpecError(describe(error, "engine", cls)) from error
