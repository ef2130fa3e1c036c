"""bytes_of_tokens(): what each token of a tokenizer stands for, by llguidance. Knows nothing of grammars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def bytes_of_tokens(tokenizer: Any) -> Callable[[int], bytes]:
    """The bytes that a token id adds to a text: of a special token its name, b"" of one that the tokenizer lacks.

    Args:
        tokenizer: a transformers tokenizer.

    Raises:
        Exception: it is none that the library can read.
    """
    from llguidance.hf import from_tokenizer

    known = from_tokenizer(tokenizer)
    return lambda token_id: known.decode_bytes([token_id]) if token_id < known.vocab_size else b""
