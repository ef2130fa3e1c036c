"""What tokens stand for, byte by byte."""

from transformers import AutoTokenizer

from corm_batch.grammar.spelling import bytes_of_tokens
from tests.conftest import REFERENCE_MODEL


def test_tokens_add_up_to_the_text_blanks_and_parts_of_characters_included():
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL)
    spelled = bytes_of_tokens(tokenizer)
    text = " the King \u65e5\u672c gr\u00fc\u00dft"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(map(spelled, ids)).decode() == text
    assert any(not spelled(one).isascii() and len(spelled(one)) == 1 for one in ids)
    assert spelled(tokenizer.eos_token_id) == b"<|end|>"
    assert spelled(len(tokenizer) + 5) == b""
