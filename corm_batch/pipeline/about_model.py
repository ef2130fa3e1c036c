"""What a user should know of a job's model before anything is started for it, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corm_batch.engine.checkpoint import Checkpoint, quantization
from corm_batch.engine.fp8_format import stored_fp8
from corm_batch.engine.rules import Rules
from corm_batch.engine.shape import read_groups
from corm_batch.errors import ModelLoadError
from corm_batch.registry import shown
from corm_batch.spec import JobSpec, ModelSection
from corm_batch.storage.base import Storage
from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer

_PLAIN = "A plain sentence of words, 12 of them in all."


def about_prompts(model: ModelSection, tokenizer: PromptTokenizer, vocab_size: int) -> Iterator[str]:
    """What to know of how the model is spoken to.

    Raises:
        ModelLoadError: every prompt has a token that the model does not have.
    """
    if not tokenizer.has_template:
        parts = "model.system, document and instruction" if model.system else "document and instruction"
        yield f"the tokenizer has no chat template: a prompt is plain text, {parts} one after the other"
    if (read := tokenizer.spelled(tokenizer.text_ids(_PLAIN)).strip()) != _PLAIN:
        yield (
            f"the tokenizer makes {shown(read)} of {shown(_PLAIN)}, and the model reads that: look whether the "
            "tokenizer_class in its tokenizer_config.json is another model's"
        )
    if (highest := tokenizer.highest_token_id) >= vocab_size:
        if outside := [token for token in tokenizer.encode(Prompt("text", "instruction")) if token >= vocab_size]:
            raise ModelLoadError(
                f"model.name: every prompt has the token {outside[0]}, and the model's embedding has {vocab_size} "
                "rows: this tokenizer is another model's"
            )
        yield (
            f"the tokenizer has tokens up to {highest}, the model's embedding {vocab_size} rows: documents with a "
            "token beyond them fail"
        )


def about_weights(spec: JobSpec, config: Any, checkpoint: Checkpoint, rules: Rules) -> Iterator[str]:
    """What to know of how the model is loaded, which of its layers share entries and how its tokens are chosen.

    Raises:
        UnsupportedModelError: none of its layers can be quantised.
    """
    if checkpoint.adapter is not None:
        yield f"the adapter is merged into its model, {checkpoint.weights}"
    if stored := stored_fp8(config):
        yield f"{stored}" if checkpoint.adapter is None else "the weights are stored in fp8; merged, they are no longer"
    elif spec.model.weights == "fp8":
        from corm_batch.engine.fp8 import about_quantizing  # here: what shares a model over GPUs comes with it

        yield about_quantizing(config, spec.engine.tensor_parallel)
    elif method := quantization(config):
        yield f"the weights are quantised with {method}: that works as far as transformers loads them here"
    if pairs := [f"{layer} those of {owner}" for layer, owner in sorted(spec.engine.sharing.items())]:
        yield f"layers that read another's entries (engine.sharing): {', '.join(pairs)}"
    if groups := read_groups(config):
        runs = ", ".join(f"{group[0]}-{group[-1]}" for group in groups.layers)
        yield (
            f"layers {runs} share keys of tokens that are neither the first {groups.first} nor the newest "
            f"{groups.recent} (pod)"
        )
    said = rules.model_dump(exclude_defaults=True, exclude={"end_token_ids", "not_for_sampling"})
    if said:
        settings = ", ".join(f"{key} {shown(value)}" for key, value in said.items())
        yield f"generation_config.json is followed: {settings} (top_k, top_p, min_p where task.temperature is not 0)"


def about_storage(spec: JobSpec, usual: Storage) -> Iterator[str]:
    """A sentence where entries are stored otherwise than the model computes them without having been asked for."""
    if spec.engine.storage is None and usual.name != "model":
        yield f"kept entries are stored as {usual.name}; engine.storage: model stores them as the model computes them"
