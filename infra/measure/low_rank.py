"""What a model loses whose keys and values are seen as a form of low rank stores them.

    python -m infra.measure.low_rank jobs/quickstart/job.yaml --text infra/training/evaluation/books.parquet \\
        --storage '{name: lorc, key_share: 0.7, value_share: 0.9}' --output RECORD.json

How many nats a token texts lose when every key and value of every layer is as the form has it, the tokens' own, too: by
the definition, in plain torch, without an engine, which sees a prompt as it was. `--storage` may be given again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from corm_batch.engine.bases import RebuiltBatch, find_bases
from corm_batch.engine.text_batch import TextBatch
from corm_batch.evaluation.fact_suite import haystack_text
from corm_batch.ops.pages import stored_bytes
from corm_batch.storage.base import Storage
from infra.measure.record import begin_record, write_record
from infra.measure.texts import mean_loss, nats, opened, parser_of, pieces


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What is lost by form."""
    _, _, model, encode = opened(options)
    texts = list(pieces(encode, haystack_text(options.text), options.tokens, options.texts, model.device))
    rows, before, head_dim = [], nats(model, map(TextBatch, texts)), model.shape.head_dim
    for asked in options.storage:
        form = Storage.from_spec(yaml.safe_load(asked))
        if (bases := find_bases(model, form)) is None:
            raise SystemExit(f"--storage {asked}: expected a form of low rank")
        lost = nats(model, (RebuiltBatch(ids, bases) for ids in texts)) - before
        held = stored_bytes(form, head_dim, model.dtype) / (2 * head_dim * model.dtype.itemsize)
        rows.append({"storage": form.to_spec(), "bytes": round(held, 3), **mean_loss(lost)})
    return {"head_dim": head_dim, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = parser_of(__doc__, "whose model is looked at")
    parser.add_argument("--text", required=True, help="Parquet file with a column text: what is lost on")
    parser.add_argument(
        "--storage", metavar="YAML", action="append", required=True, help="a form, as in engine.storage"
    )
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    asked = {name: getattr(options, name) for name in ("texts", "tokens", "device")}
    write_record(begin_record("low_rank", job=options.job, **asked) | measure(options), options.output)


if __name__ == "__main__":
    main()
