import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corm_batch.errors import DocumentError
from corm_batch.text.windows import cut_beginning, cut_windows


def ends_of(text, size=3):
    """Token ends of a tokenizer that takes `size` characters at a time."""
    return [min(end, len(text)) for end in range(size, len(text) + size, size)]


@given(st.text(max_size=200), st.integers(2, 40), st.integers(0, 3))
def test_pieces_make_up_the_text_and_fit(text, room, tighter):
    limit = 3 * room - tighter
    pieces = cut_windows(text, ends_of(text), room, lambda piece: len(piece) <= limit)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


@given(st.text(max_size=200), st.integers(1, 40))
def test_beginning_is_the_longest_that_fits(text, room):
    beginning = cut_beginning(text, ends_of(text), room, lambda piece: len(piece) <= 3 * room)
    expected = min(len(text), 3 * room)
    assert text.startswith(beginning)
    assert len(beginning) == expected or unicodedata.combining(text[expected])


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Aaaa bbbb. Cccc dddd.\n\nEeee ffff.  Gggg hhhh", "Aaaa bbbb. Cccc dddd.\n\n"),
        ("Aaaa bbbb cccc dddd eee. Gggg hhhh iiii jjjj", "Aaaa bbbb cccc dddd eee. "),
        ("Aaaa bbbb cccc dddd eee gggg hhhh iiii jjjj", "Aaaa bbbb cccc dddd eee "),
        ("a" * 60, "a" * 27),
    ],
)
def test_pieces_end_at_paragraphs_sentences_or_words(text, first):
    assert cut_windows(text, ends_of(text), 9, lambda piece: len(piece) <= 27)[0] == first


def test_a_combining_mark_stays_with_its_letter():
    text = "abcde\u0301fgh"
    assert cut_windows(text, ends_of(text, 1), 5, lambda piece: len(piece) <= 5)[0] == "abcd"


def test_no_room_at_all():
    with pytest.raises(DocumentError, match="no room"):
        cut_windows("text", ends_of("text"), 0, lambda piece: True)
    with pytest.raises(DocumentError, match="no room"):
        cut_beginning("text", ends_of("text"), 4, lambda piece: False)
