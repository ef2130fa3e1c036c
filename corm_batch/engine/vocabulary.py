"""described(): what a policy is told of the model that it is to serve, its tokens by kind and its turns among it; and
served(), the policy that has been told."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from corm_batch.engine.checkpoint import one_line
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import ModelLoadError
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.model import Model, Turn, Vocabulary

_NO_CHARACTER = "\ufffd"
"""What a token decodes to that is a part of a character alone."""

_MARK = "\ue000"
"""A private character, which no template has."""


def served(policy: KVPolicy, shape: ModelShape, load_tokenizer: Callable[[], Any]) -> KVPolicy:
    """The policy as it serves a whole model.

    Raises:
        SpecError, ModelLoadError: it cannot; see `KVPolicy.for_model` and `described`.
    """
    return policy.for_model(described(policy, shape, load_tokenizer))


def described(policy: KVPolicy, shape: ModelShape, load_tokenizer: Callable[[], Any]) -> Model:
    """What a policy is told of a model, all heads being its own.

    Args:
        policy: says what it needs to know.
        shape: the model's counts.
        load_tokenizer: makes its transformers tokenizer; whatever it may raise.

    Raises:
        ModelLoadError: the policy needs a tokenizer, and the model has none.
    """
    vocabulary = turn = None
    if policy.needs.vocabulary or policy.needs.turn:
        try:
            tokenizer = load_tokenizer()
        except Exception as error:  # somebody else's files can fail in any way
            raise ModelLoadError(
                f"policy {policy.name}: needs the model's tokenizer, which cannot be loaded: {one_line(error)}"
            ) from error
        vocabulary = read_vocabulary(tokenizer, shape.vocab_size) if policy.needs.vocabulary else None
        turn = read_turn(tokenizer) if policy.needs.turn else None
    return Model(shape.num_layers, shape.num_kv_heads, vocabulary=vocabulary, turn=turn, own_layers=shape.own_layers)


def read_vocabulary(tokenizer: Any, vocab_size: int) -> Vocabulary:
    """A transformers tokenizer's tokens by kind: punctuation is what Unicode calls so, or a symbol."""
    special = {token for token in tokenizer.all_special_ids if token < vocab_size}
    ids = sorted({token for token in tokenizer.get_vocab().values() if token < vocab_size} - special)
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    signs = [token for token, text in zip(ids, texts, strict=True) if _is_signs(text.strip())]
    return Vocabulary(tuple(sorted(special)), tuple(signs))


def read_turn(tokenizer: Any) -> Turn:
    """How a transformers tokenizer's chat template puts a user's next turn; without one, as a paragraph of its own."""
    opening, closing = "\n\n", "\n"
    if tokenizer.chat_template:
        roles = ("user", "assistant", "user")
        chat = [{"role": role, "content": f"{_MARK}{place}{_MARK}"} for place, role in enumerate(roles)]
        try:
            rendered: str = tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except Exception:  # a template for one question says nothing of a second one
            rendered = ""
        behind = rendered.rpartition(chat[1]["content"])[2]
        before, found, after = behind.partition(chat[2]["content"])
        if found:
            opening, closing = before, after

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    return Turn(lambda words: encode(opening + words), encode(closing))


def _is_signs(text: str) -> bool:
    return bool(text) and all(unicodedata.category(sign)[0] in "PS" and sign != _NO_CHARACTER for sign in text)
