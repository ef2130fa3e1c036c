"""ClusterSection: the `cluster` section of a spec. Knows nothing of Ray or of the rest of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from corm_batch.errors import SpecError
from corm_batch.registry import describe


class Section(BaseModel):
    """One section of the spec: a frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplicaRange(Section):
    """Copies of the model on a cluster whose nodes come and go."""

    min: int = Field(1, ge=1, description="replicas that have to be ready before the first document is given")
    max: int = Field(ge=1, description="replicas asked for while there are documents; never waited for")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """Refuse a minimum above the maximum."""
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max, which is {self.max}")
        return self


class ClusterSection(Section):
    """How many replicas answer, what each gets, and how much is in flight."""

    address: str | None = Field(
        None,
        pattern=r"^(auto|(ray://)?[^/@\s]+:\d+)$",
        description="auto, host:port or ray://host:port of a running cluster; default: one of this job's own",
    )
    replicas: int | ReplicaRange = Field(
        1, description="copies of the model that answer side by side; {min, max} for a cluster that scales"
    )
    gpus_per_replica: float | None = Field(None, ge=0, description="default: engine.tensor_parallel on cuda, else 0")
    cpus_per_replica: float | None = Field(
        None, gt=0, description="default: 1; without a GPU, on a cluster of this job's own, an even share of the cores"
    )
    price_per_gpu_hour: float | None = Field(
        None, ge=0, description="what a GPU costs an hour, in a currency of yours: plan, totals and page then say costs"
    )
    look_ahead: int = Field(256, ge=1, description="documents read ahead, of which the longest go first")
    token_budget: int | None = Field(
        None, ge=1, description="prompt tokens in flight on one replica; default: decided from its memory"
    )
    document_timeout_s: float = Field(3600.0, gt=0, description="seconds after which a document fails")
    max_actor_restarts: int = Field(
        10, ge=0, description="replicas lost in a row, without an answer in between, that are replaced"
    )

    @field_validator("replicas", mode="before")
    @classmethod
    def _number_or_range(cls, value: Any) -> Any:
        """One of the two, so that what is wrong with it is said once."""
        if isinstance(value, Mapping):
            try:
                return ReplicaRange.model_validate(value)
            except ValidationError as error:
                raise SpecError(describe(error, "cluster.replicas", ReplicaRange)) from error
        if isinstance(value, ReplicaRange):
            return value
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("Input should be a whole number or {min, max}")
        if value < 1:
            raise ValueError("Input should be greater than or equal to 1")
        return value

    @property
    def scales(self) -> bool:
        """Whether replicas come and go with the cluster's nodes."""
        return isinstance(self.replicas, ReplicaRange)

    @property
    def min_replicas(self) -> int:
        """Replicas that there has to be room for."""
        return self.replicas.min if isinstance(self.replicas, ReplicaRange) else self.replicas

    @property
    def max_replicas(self) -> int:
        """Replicas asked for at most."""
        return self.replicas.max if isinstance(self.replicas, ReplicaRange) else self.replicas
