"""A table of head scores for `budget: {name: headkv, scores: FILE}` and `policy: {name: duo_attention, scores: FILE}`.

    python -m infra.measure.head_table --model jobs/quickstart/model --text books.parquet --output heads.json

Facts are planted in pieces of the texts (a Parquet file with a column `text`) and asked for; how much every query head
looks at them while they are said is its score. The file names the model and the hash of its weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import torch

from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.loader import load_model
from corm_batch.evaluation.head_table import Method, fact_cases, measure_heads
from corm_batch.text.tokenize import PromptTokenizer
from infra.measure.record import begin_record, write_record


def main() -> None:
    """Measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder")
    parser.add_argument("--text", type=Path, required=True, help="Parquet file with a column text")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--method", choices=get_args(Method), default="retrieval_reasoning")
    parser.add_argument("--document-role", choices=("user", "document"), default="user")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--chars", type=int, default=3000, help="of a piece of text")
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = PromptTokenizer.from_pretrained(str(options.model), document_role=options.document_role)
    model = load_model(str(options.model), getattr(torch, options.dtype), torch.device(options.device))
    text = "\n\n".join(pq.read_table(options.text, columns=["text"])["text"].to_pylist())
    cases = fact_cases(tokenizer, model.load_tokenizer(), text, options.chars, options.cases, options.seed)
    record = begin_record(
        "head_table", model=options.model.name, weights_sha256=weights_sha256(str(options.model)),
        method=options.method, cases=options.cases, chars=options.chars, seed=options.seed,
    )  # fmt: skip
    write_record(record | {"scores": measure_heads(model, cases, options.method)}, options.output)


if __name__ == "__main__":
    main()
