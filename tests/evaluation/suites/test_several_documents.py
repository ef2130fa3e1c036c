"""Documents with numbers: more of them in a longer prompt, each asked for by its place."""

import re

from corm_batch.evaluation.base import Suite


def test_every_document_says_its_own_number_and_one_is_asked_for(tokenizer):
    texts = [f"Chapter {number}: nobody knew what the river carried that year." for number in range(300)]
    suite = Suite.from_spec({"name": "several_documents"})
    counts = []
    for case in suite.cases(tokenizer, [512, 1024], 2, texts=texts):
        said = re.findall(r"Document (\d+)\. The registration number of this document is (\d{6})\.", case.document)
        assert [int(place) for place, _ in said] == list(range(1, len(said) + 1))
        (asked,) = re.findall(r"number of document (\d+)\?", case.question)
        assert dict(said)[asked] == case.answers[0]
        counts.append(len(said))
    assert counts == [2, 2, 7, 7]
