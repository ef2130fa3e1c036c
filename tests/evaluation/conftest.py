"""Facts are drawn with the words of the books that the training recipe's tests read."""

from tests.infra.training.conftest import books, text, tokenizer, words

__all__ = ["books", "text", "tokenizer", "words"]
