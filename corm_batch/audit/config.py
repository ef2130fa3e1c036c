"""VerifyConfig: the `verify` section of a spec. Knows nothing of how a document is verified."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MIN_GAP: Final = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.25}
"""Nats by number format of the model: gaps up to here are ties within the arithmetic's noise."""


def _share(value: Any) -> Any:
    """`5%` as 0.05; anything else as it is."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return value


Share = Annotated[float, BeforeValidator(_share, json_schema_input_type=float | str)]


class VerifyConfig(BaseModel):
    """How many answers are held against those of an uncompressed cache, and what follows from a difference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Share = Field(
        0.05, ge=0, le=1, description="of the documents, chosen by hash of their ids; as 0.05 or 5%; 0: none"
    )
    on_difference: Literal["flag", "rerun"] = Field(
        "flag", description="flag: the row says so; rerun: the document is answered again without eviction as well"
    )
    min_gap: float | None = Field(
        None,
        ge=0,
        description="nats by which another token has to be more probable to count; default: the arithmetic's noise",
    )
    stop_above: Share | None = Field(
        None,
        ge=0,
        lt=1,
        description="end the job once more than this share of the documents differs, with 95 % confidence; as 5%",
    )

    def of_dtype(self, dtype: str) -> VerifyConfig:
        """The same with the `min_gap` of a model's number format where none is set."""
        return self if self.min_gap is not None else self.model_copy(update={"min_gap": MIN_GAP[dtype]})
