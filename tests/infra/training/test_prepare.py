"""Text becomes a tokenizer and one array of token ids."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from infra.training.compose import SPECIAL_TOKENS, Instructions
from infra.training.prepare import main

TITLE = "The old stone bridge"
BODY = ("The bridge of stone is old. " * 30).strip()
TEXTS = [
    "Größe 1871 – naïve 😀\n",
    "The ferry leaves at noon. " * 40,
    f"# {TITLE}\n\n{BODY}\n\n# Other\n\nA short one.",
]


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "data/train").mkdir(parents=True)
    for name, texts in (("a", TEXTS[:1]), ("b", TEXTS[1:])):
        pq.write_table(pa.table({"text": texts, "other": [1] * len(texts)}), tmp_path / f"data/train/{name}.parquet")
    main(tmp_path / "data", tmp_path / "work")
    return tmp_path


def test_the_array_holds_every_document_whole_and_ended(prepared):
    tokenizer = Tokenizer.from_file(str(prepared / "work/tokenizer/tokenizer.json"))
    ids = np.load(prepared / "work/text.npy")
    assert ids.dtype == np.uint16
    whole = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    assert whole in {"".join(f"{text}<|end|>" for text in order) for order in itertools.permutations(TEXTS)}


def test_special_tokens_come_first_and_digits_stand_alone(prepared):
    tokenizer = Tokenizer.from_file(str(prepared / "work/tokenizer/tokenizer.json"))
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    assert tokenizer.encode("1871").tokens == ["1", "8", "7", "1"]
    loaded = AutoTokenizer.from_pretrained(prepared / "work/tokenizer")
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|document|>", "<|end|>", "<|pad|>")
    messages = [{"role": "document", "content": "D"}, {"role": "user", "content": "Q"}]
    asked = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == "<|document|>D<|question|> Q<|answer|>"


def test_what_authors_said_is_read_as_instructions(prepared):
    assert Instructions.read([prepared / "work/authored.parquet"]).summaries == [
        (BODY, "Give the text a title.", TITLE)
    ]


def test_what_is_there_already_is_kept(prepared):
    names = ("tokenizer/tokenizer.json", "text.npy", "authored.parquet")
    files = [prepared / "work" / name for name in names]
    before = [file.stat().st_mtime_ns for file in files]
    main(prepared / "data", prepared / "work")
    assert [file.stat().st_mtime_ns for file in files] == before
    files[1].unlink()
    main(prepared / "data", prepared / "work")
    assert files[0].stat().st_mtime_ns == before[0]
    assert files[1].exists()


def test_a_folder_without_text_is_refused_by_name(tmp_path):
    with pytest.raises(SystemExit, match=r"train: no \*\.parquet file; expected some with a column 'text'"):
        main(tmp_path, tmp_path / "work")
