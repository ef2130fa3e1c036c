"""described(): what a policy is told of the model that it is to serve, its tokens by kind among it."""

from __future__ import annotations

import unicodedata
from typing import Any

from corm_batch.engine.checkpoint import one_line
from corm_batch.engine.loader import LoadedModel
from corm_batch.errors import ModelLoadError
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.model import Model, Vocabulary

_NO_CHARACTER = "\ufffd"
"""What a token decodes to that is a part of a character alone."""


def described(model: LoadedModel, policy: KVPolicy) -> Model:
    """What this policy is told, all heads being its own.

    Raises:
        ModelLoadError: it needs a tokenizer, and the model has none.
    """
    vocabulary = None
    if policy.needs.vocabulary:
        try:
            tokenizer = model.load_tokenizer()
        except Exception as error:  # somebody else's files can fail in any way
            raise ModelLoadError(
                f"policy {policy.name}: needs the model's tokenizer, which cannot be loaded: {one_line(error)}"
            ) from error
        vocabulary = read_vocabulary(tokenizer, model.shape.vocab_size)
    return Model(model.shape.num_layers, model.shape.num_kv_heads, vocabulary=vocabulary)


def read_vocabulary(tokenizer: Any, vocab_size: int) -> Vocabulary:
    """A transformers tokenizer's tokens by kind: punctuation is what Unicode calls so, or a symbol."""
    special = {token for token in tokenizer.all_special_ids if token < vocab_size}
    ids = sorted({token for token in tokenizer.get_vocab().values() if token < vocab_size} - special)
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    signs = [token for token, text in zip(ids, texts, strict=True) if _is_signs(text.strip())]
    return Vocabulary(tuple(sorted(special)), tuple(signs))


def _is_signs(text: str) -> bool:
    return bool(text) and all(unicodedata.category(sign)[0] in "PS" and sign != _NO_CHARACTER for sign in text)
