"""What the recipe's tests read: the quick start's tokenizer and books, and a few questions that a person could ask."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from corm_batch.evaluation.haystack import common_words
from infra.training.compose import END, Composer, Instructions
from infra.training.conversations import Conversation

QUICKSTART = Path(__file__).parents[3] / "jobs/quickstart"
ORCHARD = "The orchard of Bern was planted in 1871 by Ada Brand.\nIt holds forty old pear trees."
FERRY = "The ferry leaves the quay at noon.  Its captain is called Tom Reed."
VISIT = Conversation(
    "Doctor: How old are you, sir?\nPatient: Sixty four.\nDoctor: What do you drink?\nPatient: Only tea.",
    "Summarise the dialogue.",
    "He is a 64-year-old man who drinks only tea.",
)


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.from_file(str(QUICKSTART / "model/tokenizer.json"))


@pytest.fixture(scope="session")
def books():
    """The quick start's long documents, one string each."""
    return pq.read_table(QUICKSTART / "documents.parquet", columns=["text"])["text"].to_pylist()


@pytest.fixture(scope="session")
def text(tokenizer, books):
    """The books one after the other as token ids, each ended as prepare.py ends it."""
    end = tokenizer.token_to_id(END)
    encoded = tokenizer.encode_batch_fast(books, add_special_tokens=False)
    return np.concatenate([np.array([*book.ids, end], np.uint16) for book in encoded])


@pytest.fixture(scope="session")
def words(tokenizer, text):
    return common_words(tokenizer, text)


@pytest.fixture(scope="session")
def instructions():
    paragraphs = [
        (ORCHARD, [("Who planted the orchard of Bern?", "Ada Brand"), ("How many trees are there?", "forty")]),
        (FERRY, [("When does the ferry leave?", "at noon")]),
    ]
    return Instructions(
        paragraphs, [(f"{ORCHARD}\n{FERRY}", "Summarize the text.", "An orchard and a ferry.")], [VISIT]
    )


@pytest.fixture(scope="session")
def compose(tokenizer, text, words, instructions):
    """Makes a composer from a seed."""

    def make(seed, instructions=instructions, text=text):
        return Composer(tokenizer, text, words, instructions, seed)

    return make
