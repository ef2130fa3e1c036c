"""MemoryStats: what one document's cache cost. A figure is said here once: its type, meaning, unit, and how those of
several prompts join; the column of the memory table and the total of a document follow. `memory.py` reads it off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

Join = Callable[[Sequence[Any], "Sequence[MemoryStats]"], Any]
"""Makes one value of the values of several prompts, and their other figures."""


def _sum(values: Sequence[Any], _: Sequence[MemoryStats]) -> Any:
    return sum(values)


def _largest(values: Sequence[Any], _: Sequence[MemoryStats]) -> Any:
    """Prompts are answered as there is room, some beside each other and others when those are gone: a sum would be
    bytes that nobody held, or time that nobody waited."""
    return max(values)


def _first(values: Sequence[Any], _: Sequence[MemoryStats]) -> Any:
    return values[0]


def _first_said(values: Sequence[Any], _: Sequence[MemoryStats]) -> Any:
    return next((value for value in values if value is not None), None)


def _layer_by_layer(values: Sequence[Any], _: Sequence[MemoryStats]) -> Any:
    """What never held a page, such as a reading that nobody needed, has no layers."""
    return tuple(map(sum, zip(*filter(None, values), strict=True)))


def _weighted_by(weight: str, of_none: float) -> Join:
    """The mean, weighted by another figure; `of_none` where that is 0 throughout, None where a value is."""

    def join(values: Sequence[Any], stats: Sequence[MemoryStats]) -> Any:
        if None in values:
            return None
        weights = [getattr(one, weight) for one in stats]
        joined = sum(value * share for value, share in zip(values, weights, strict=True))
        return joined / sum(weights) if sum(weights) else of_none

    return join


def _figure(default: Any, description: str, unit: str | None, join: Join) -> Any:
    return field(default=default, metadata={"description": description, "unit": unit, "join": join})


@dataclass(frozen=True)
class MemoryStats:
    """What one prompt's cache cost, or those of all prompts of a document.

    All bytes are bytes of pages really held, except `kv_bytes_full`, which counts sliding-window layers at their
    window. What is asked over a shared reading counts its own alone; a reading and all that was asked over it are one
    piece of a document (`beside`). Over several ranks every count is their total; of the peak, the total of each one's
    own. Seconds of prefill and decode are shared among the documents of a pass or step: summed over documents they are
    the time the engine spent. `evicted_attention_mass` is, of all the attention of the queries that voted (the window
    at the end of an exact prefill, every query of a streaming one, every decoded token), the share that lay on entries
    which were then evicted, counted since they were last found important, mean over layers and heads.
    """

    prompt_tokens: int = _figure(0, "tokens of all prompts", "tokens", _sum)
    output_tokens: int = _figure(0, "tokens of all answers", "tokens", _sum)
    kv_bytes_full: int = _figure(
        0, "what an uncompressed cache would hold at the end; of the largest piece", "bytes", _largest
    )
    kv_bytes_after_prefill: int = _figure(
        0, "pages held when the prompt was read; of the largest piece", "bytes", _largest
    )
    kv_bytes_peak: int = _figure(0, "most pages held; of the largest piece: pieces come and go", "bytes", _largest)
    kv_bytes_final: int = _figure(0, "pages held at the end; of the largest piece", "bytes", _largest)
    kv_bytes_transient: int = _figure(
        0, "keys and values that prefill works on: of a layer, and those still to be borrowed", "bytes", _largest
    )
    kept_ratio: float = _figure(
        1.0, "entries stored at the end over entries of an uncompressed cache", "ratio",
        _weighted_by("kv_bytes_full", 1.0),
    )  # fmt: skip
    kept_per_layer: tuple[int, ...] = _figure(
        (), "entries stored at the end, over all kv heads", "entries", _layer_by_layer
    )
    evicted_entries: int = _figure(0, "entries that left", "entries", _sum)
    evicted_attention_mass: float | None = _figure(
        0.0, "attention that lay on entries when they left; null where the policy does not sum it up", "ratio",
        _weighted_by("evicted_entries", 0.0),
    )  # fmt: skip
    preemptions: int = _figure(0, "times the pages were moved to host memory to make room", None, _sum)
    queue_s: float = _figure(
        0.0, "waiting for room in the engine: the longest of its prompts, which may wait beside each other", "seconds",
        _largest,
    )  # fmt: skip
    prefill_s: float = _figure(0.0, "its share, by tokens, of the passes that read prompts", "seconds", _sum)
    decode_s: float = _figure(0.0, "its share of the steps that write answers", "seconds", _sum)
    elapsed_s: float = _figure(0.0, "from when a replica took the document to its answer", "seconds", _largest)
    prefill_mode: str = _figure("exact", "exact or streaming", None, _first)
    read_apart: str | None = _figure(
        None, "why what was asked of one text did not share one reading of it; null where it did", None, _first_said
    )

    @classmethod
    def total(cls, stats: Sequence[MemoryStats]) -> MemoryStats:
        """Those of all prompts of one document as one; the defaults where there is none."""
        if not stats:
            return cls()
        return cls(
            **{
                figure.name: figure.metadata["join"]([getattr(one, figure.name) for one in stats], stats)
                for figure in fields(cls)
            }
        )

    @classmethod
    def beside(cls, stats: Sequence[MemoryStats]) -> MemoryStats:
        """Those of a reading and of all that was asked over it, as of one prompt: their pages are held at the same
        time, so that bytes of pages add up."""
        held = ("kv_bytes_full", "kv_bytes_after_prefill", "kv_bytes_peak", "kv_bytes_final")
        return replace(cls.total(stats), **{name: sum(getattr(one, name) for one in stats) for name in held})
