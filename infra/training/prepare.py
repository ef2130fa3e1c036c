"""Turn a folder of Parquet text into what training reads: a tokenizer and one array of token ids.

    python -m infra.training.prepare DATA WORK

DATA/train/*.parquet has a column `text`; DATA/instruct/*.parquet (may be missing) has task, document, prompt and
answer. Writes WORK/tokenizer/ (byte-level BPE of 8,192 pieces, digits one by one, chat template), WORK/text.npy
(uint16) and WORK/authored.parquet (what authors said of their own texts). What is there already is kept.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from infra.training.authored import Pair, authored
from infra.training.compose import ANSWER, DOCUMENT, END, QUESTION, SPECIAL_TOKENS

VOCABULARY = 8192
CONTEXT = 8192
AUTHORED = "authored.parquet"
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    f"{{% if m['role'] == 'document' %}}{DOCUMENT}{{{{ m['content'] }}}}"
    f"{{% elif m['role'] == 'user' %}}{QUESTION} {{{{ m['content'] }}}}"
    f"{{% elif m['role'] == 'assistant' %}}{ANSWER} {{{{ m['content'] }}}}{END}{{% endif %}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ANSWER}{{% endif %}}"
)


def read_texts(folder: Path) -> list[str]:
    """Every document under DATA/train, in an order drawn once."""
    paths = sorted((folder / "train").glob("*.parquet"))
    if not paths:
        raise SystemExit(f"{folder / 'train'}: no *.parquet file; expected some with a column 'text'")
    texts = [text for path in paths for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]
    random.Random(0).shuffle(texts)
    return texts


def read_requests(folder: Path) -> list[str]:
    """A seventh of the questions with their answers, so that the tokenizer knows how people ask."""
    paths = sorted((folder / "instruct").glob("*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path, columns=["prompt", "answer"]).to_pylist()]
    return [f"{row['prompt']} {row['answer']}" for row in rows[::7]]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE in which every digit is a token, from 20,000 characters of every 60,000."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = (text[start : start + 20_000] for text in texts for start in range(0, len(text), 60_000))
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """As transformers loads it, with the chat template."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=DOCUMENT,
        eos_token=END,
        pad_token=SPECIAL_TOKENS[0],
        extra_special_tokens=[QUESTION, ANSWER],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.save_pretrained(folder)


def encode(texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """All texts one after the other, each ended by `<|end|>`, as uint16."""
    end = tokenizer.token_to_id(END)
    parts = []
    for start in range(0, len(texts), 1024):
        encoded = tokenizer.encode_batch_fast(texts[start : start + 1024], add_special_tokens=False)
        parts += [np.array([*item.ids, end], np.uint16) for item in encoded]
    return np.concatenate(parts)


def main(data: Path, work: Path) -> None:
    """Write what is missing in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    texts = read_texts(data)
    if not (work / "tokenizer/tokenizer.json").exists():
        save_tokenizer(train_tokenizer(texts + read_requests(data)), work / "tokenizer")
    if not (work / "text.npy").exists():
        tokenizer = Tokenizer.from_file(str(work / "tokenizer/tokenizer.json"))
        np.save(work / "text.npy", encode(texts, tokenizer))
    if not (work / AUTHORED).exists():
        columns = pa.schema([(name, pa.string()) for name in Pair._fields])
        rows = [pair._asdict() for pair in authored(texts)]
        pq.write_table(pa.Table.from_pylist(rows, schema=columns), work / AUTHORED)
    print(f"{work}: {np.load(work / 'text.npy', mmap_mode='r').size / 1e6:.1f} M tokens from {len(texts)} documents")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
