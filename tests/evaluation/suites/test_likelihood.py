"""One question about the beginnings of documents, the user's own or a file's."""

import pytest

from corm_batch.errors import SpecError
from corm_batch.evaluation.base import Suite
from tests.evaluation.suites.files import write_lines

SUITE = Suite.from_spec({"name": "likelihood", "question": "Who?", "max_new_tokens": 16})


def test_documents_are_cut_to_the_length_or_whole(tokenizer, tmp_path):
    texts = ["Nobody came to the river. " * 60, "Noon.", "never read"]
    long, short = SUITE.cases(tokenizer, [128], 2, texts=texts)
    assert texts[0].startswith(long.document)
    assert len(tokenizer.encode(f"{long.document}Who?", add_special_tokens=False).ids) == 128 - 16
    assert (short.document, short.question, short.group, short.answers) == ("Noon.", "Who?", "documents 128", ())
    assert (SUITE.own_answers, SUITE.score(short, "Tom")) == (True, {})
    own = SUITE.model_copy(update={"documents": write_lines(tmp_path / "t.jsonl", [{"text": "A file."}])})
    assert (own.needs_texts, SUITE.needs_texts) == (False, True)
    assert [case.document for case in own.cases(tokenizer, [128], 2, texts=texts)] == ["A file."]


def test_where_documents_are_few_their_next_pieces_are_asked_about(tokenizer):
    texts = ["Nobody came to the river. " * 60, "Noon.", "Somebody came to the hill at last. " * 45]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    room = 128 - 16 - len(tokenizer.encode("Who?", add_special_tokens=False).ids)
    found = [case.document for case in SUITE.cases(tokenizer, [128], 99, texts=texts)]
    pieces = [[tokenizer.decode(one[i : i + room]) for i in range(0, len(one) - room + 1, room)] for one in ids]
    assert len(pieces[0]) > len(pieces[2]) > 1
    assert found[:3] == [pieces[0][0], "Noon.", pieces[2][0]]
    assert found[3:5] == [pieces[0][1], pieces[2][1]]
    assert found[-1] == pieces[0][-1]
    assert len(found) == len(pieces[0]) + 1 + len(pieces[2])
    assert [case.document for case in SUITE.cases(tokenizer, [128], 5, texts=texts)] == found[:5]


def test_no_document_and_no_room_are_said(tokenizer):
    with pytest.raises(SpecError, match=r"suite\.documents: there is none"):
        next(SUITE.cases(tokenizer, [128], 1))
    with pytest.raises(SpecError, match="lengths: got 64, allowed is 82 or more: question and answer take 18"):
        next(SUITE.cases(tokenizer, [64], 1, texts=["Noon."]))
