"""Rules: what a model's generation_config.json says about which tokens may come, as `transformers.generate` reads it.

A key that changes tokens is applied here or refused by name; the rest (caches, outputs, lengths that a request sets
itself) is of no concern to an answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import GenerationConfig

from corm_batch.engine.checkpoint import Checkpoint, one_line
from corm_batch.engine.request import SamplingParams
from corm_batch.errors import DocumentError, ModelLoadError, UnsupportedModelError
from corm_batch.registry import describe

FILE = "generation_config.json"
WAY_OUT = "remove the key, or set model.generation_config: ignore"

_NEUTRAL = {
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight", "assistant_lookbehind",
    "bos_token_id", "cache_config", "cache_implementation", "compile_config", "continuous_batching_config",
    "decoder_start_token_id", "disable_compile", "do_sample", "early_stopping", "eos_token_id", "is_assistant",
    "length_penalty", "low_memory", "max_cache_len", "max_length", "max_matching_ngram_size", "max_new_tokens",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "prefill_chunk_size", "prompt_lookup_num_tokens",
    "remove_invalid_values", "renormalize_logits", "return_dict_in_generate", "speculation_type", "target_lookbehind",
    "temperature", "transformers_version", "use_cache", "use_mtp",
}  # fmt: skip
"""Keys that leave a single greedy answer what it is, and those a request always sets itself."""

_OFF: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "num_return_sequences": (1,), "guidance_scale": (1,),
    "encoder_repetition_penalty": (1,), "typical_p": (1,), "forced_bos_token_id": (), "forced_eos_token_id": (),
}  # fmt: skip
"""Values that turn a key off, where they are others than nothing, zero and false."""

_SAMPLING_ONLY = ("typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
"""Keys that only matter to a request that samples."""

TokenIds = tuple[int, ...]


class Rules(BaseModel):
    """What holds for every token of every answer of a model, beside what a request says.

    Attributes:
        repetition_penalty: divides the positive and multiplies the negative logits of tokens in prompt or answer.
        no_repeat_ngram_size: no sequence of so many tokens comes a second time; 0 for no such rule.
        bad_words_ids: token sequences that never come.
        sequence_bias: token sequences, and what is added to the logit of the token that would complete one.
        suppress_tokens, begin_suppress_tokens: tokens that never come, or not as the first of an answer.
        min_length, min_new_tokens: tokens of prompt and answer, and of the answer, before it may end.
        stop_strings: texts that end an answer.
        top_k, top_p, min_p: among which tokens a request draws that samples; 0, 1 and 0 for all.
        end_token_ids: tokens that end an answer.
        not_for_sampling: keys, with their values, that a request that samples would have to respect and the engine
            cannot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repetition_penalty: float = Field(1.0, gt=0)
    no_repeat_ngram_size: int = Field(0, ge=0)
    bad_words_ids: tuple[TokenIds, ...] = ()
    sequence_bias: tuple[tuple[TokenIds, float], ...] = ()
    suppress_tokens: TokenIds = ()
    begin_suppress_tokens: TokenIds = ()
    min_length: int = Field(0, ge=0)
    min_new_tokens: int = Field(0, ge=0)
    stop_strings: tuple[str, ...] = ()
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    end_token_ids: frozenset[int] = frozenset()
    not_for_sampling: tuple[str, ...] = ()

    @classmethod
    def read(cls, config: GenerationConfig, vocab_size: int, end_token_ids: frozenset[int]) -> Rules:
        """The rules of a loaded model's generation config, whose answers end with one of `end_token_ids`.

        Raises:
            UnsupportedModelError: it has a key set that changes tokens and is not applied here.
            ModelLoadError: a value that makes no sense, or a token outside the vocabulary.
        """
        values = {key: value for key, value in vars(config).items() if _is_set(key, value)}
        known = vars(GenerationConfig()).keys() - _NEUTRAL
        applied = cls.model_fields.keys() - {"end_token_ids", "not_for_sampling"}
        for key in sorted(known.intersection(values) - applied - {*_SAMPLING_ONLY}):
            raise UnsupportedModelError(f"{FILE}: {key}: {values[key]!r} is not supported: {WAY_OUT}")
        settings = {key: values[key] for key in applied.intersection(values)}
        if isinstance(settings.get("sequence_bias"), Mapping):
            settings["sequence_bias"] = tuple(settings["sequence_bias"].items())
        if isinstance(settings.get("stop_strings"), str):
            settings["stop_strings"] = (settings["stop_strings"],)
        late = tuple(f"{key}: {values[key]!r}" for key in _SAMPLING_ONLY if key in values)
        try:
            rules = cls(**settings, end_token_ids=end_token_ids, not_for_sampling=late)
        except ValidationError as error:
            raise ModelLoadError(f"{describe(error, FILE, cls)}: {WAY_OUT}") from error
        rules._check_tokens(vocab_size)
        return rules

    def _check_tokens(self, vocab_size: int) -> None:
        """Refuse tokens the model does not have, and sequences of none."""
        named = {
            "bad_words_ids": self.bad_words_ids,
            "sequence_bias": tuple(ids for ids, _ in self.sequence_bias),
            "suppress_tokens": (self.suppress_tokens,) if self.suppress_tokens else (),
            "begin_suppress_tokens": (self.begin_suppress_tokens,) if self.begin_suppress_tokens else (),
        }
        for key, sequences in named.items():
            for ids in sequences:
                if not ids or min(ids) < 0 or max(ids) >= vocab_size:
                    raise ModelLoadError(
                        f"{FILE}: {key}: {list(ids)}: expected token ids of 0..{vocab_size - 1}: {WAY_OUT}"
                    )

    def find_problem(self, sampling: SamplingParams) -> DocumentError | None:
        """Why a request must not be answered under these rules; None when it may be."""
        if sampling.temperature > 0 and self.not_for_sampling:
            return DocumentError(f"{FILE}: {self.not_for_sampling[0]} is not supported for a sampled answer: {WAY_OUT}")
        return None

    @cached_property
    def reads_history(self) -> bool:
        """Whether what may come depends on the order of earlier tokens: only one is chosen at a time."""
        return self.no_repeat_ngram_size > 0 or bool(self._longer)

    @cached_property
    def always(self) -> dict[int, float]:
        """What is added to tokens' logits at every step."""
        added = {ids[0]: bias for ids, bias in self._sequences if len(ids) == 1}
        return added | dict.fromkeys(self.suppress_tokens, -math.inf)

    @cached_property
    def changes_steps(self) -> bool:
        """Whether `at` ever adds anything."""
        return self.reads_history or bool(self.min_length or self.min_new_tokens or self.begin_suppress_tokens)

    def at(self, num_prompt_tokens: int, num_new_tokens: int, history: np.ndarray | None) -> list[tuple[int, float]]:
        """What is added to tokens' logits at one step, beside `always`.

        Args:
            num_prompt_tokens, num_new_tokens: there are when the token in question is chosen.
            history: [T] these tokens; None unless `reads_history`.
        """
        added: list[tuple[int, float]] = []
        if num_prompt_tokens + num_new_tokens < self.min_length or num_new_tokens < self.min_new_tokens:
            added += [(token, -math.inf) for token in self.end_token_ids]
        if num_new_tokens == 0:
            added += [(token, -math.inf) for token in self.begin_suppress_tokens]
        if history is None:
            return added
        for ids, bias in self._longer:
            if tuple(history[1 - len(ids) :].tolist()) == ids[:-1]:
                added.append((ids[-1], bias))
        if self.no_repeat_ngram_size:
            added += [(token, -math.inf) for token in _completions(history, self.no_repeat_ngram_size)]
        return added

    @cached_property
    def _sequences(self) -> tuple[tuple[TokenIds, float], ...]:
        """Biased sequences; an end token alone is no bad word."""
        ends = {(token,) for token in self.end_token_ids}
        bad = {ids: -math.inf for ids in self.bad_words_ids if ids not in ends}
        return tuple((ids, bias + bad.pop(ids, 0.0)) for ids, bias in self.sequence_bias) + tuple(bad.items())

    @cached_property
    def _longer(self) -> tuple[tuple[TokenIds, float], ...]:
        """Those of more than one token."""
        return tuple((ids, bias) for ids, bias in self._sequences if len(ids) > 1)


NO_RULES = Rules()


def read_generation_config(checkpoint: Checkpoint) -> GenerationConfig | None:
    """What a model's generation_config.json says; None where it has none.

    Raises:
        ModelLoadError: there is a file that cannot be read; transformers would pass it over.
    """
    try:
        return GenerationConfig.from_pretrained(checkpoint.weights, revision=checkpoint.revision or "main")
    except Exception as error:  # no such file, or anything a file can have wrong
        if isinstance(error, OSError) and "valid JSON" not in str(error):
            return None
        raise ModelLoadError(f"{FILE} of {checkpoint.weights!r} cannot be read: {one_line(error)}") from error


def end_tokens(vocab_size: int, *configs: Any) -> frozenset[int]:
    """Tokens of the vocabulary that the configs name as the end of a sequence."""
    found: set[int] = set()
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(token for token in found if isinstance(token, int) and 0 <= token < vocab_size)


def _is_set(key: str, value: Any) -> bool:
    """Whether a key's value means anything."""
    return not key.startswith("_") and value is not None and value not in _OFF.get(key, (False, 0, [], {}, ()))


def _completions(history: np.ndarray, size: int) -> list[int]:
    """Tokens that would make the last `size` ones of `history` [T] a repetition."""
    if len(history) < size:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(history, size)
    same = (windows[:, :-1] == history[len(history) - size + 1 :]).all(axis=1)
    return np.unique(windows[same, -1]).tolist()  # type: ignore[no-any-return]
