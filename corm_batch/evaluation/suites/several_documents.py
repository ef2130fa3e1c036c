"""Several documents in one prompt, each with a number of its own, of which one document's is asked for."""

from __future__ import annotations

from corm_batch.evaluation.fact_suite import FactSuite
from corm_batch.evaluation.facts import Draw, Facts

_PIECE_TOKENS = 120  # of a document, about, so that longer prompts hold more of them


def document_number(draw: Draw) -> Facts:
    """Two to thirty documents, by the length; each begins with its number in the pile and says its own."""
    count = max(2, min(30, draw.room // _PIECE_TOKENS))
    values = [draw.digits(6) for _ in range(count)]
    lines = [
        f"\nDocument {place}. The registration number of this document is {value}."
        for place, value in enumerate(values, 1)
    ]
    questions = [
        (f"What is the registration number of document {place}?", value) for place, value in enumerate(values, 1)
    ]
    return Facts(lines, draw.shuffled(questions))


class SeveralDocuments(FactSuite, name="several_documents"):
    """One document's number among several documents."""

    makers = (document_number,)
