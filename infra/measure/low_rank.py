"""What a model loses whose keys and values are seen as a form of low rank stores them.

    python -m infra.measure.low_rank jobs/quickstart/job.yaml --text infra/training/evaluation/books.parquet \\
        --storage '{name: lorc, key_share: 0.7, value_share: 0.9}' --output RECORD.json

How many nats a token texts lose when every key and value of every layer is as the form has it, the tokens' own, too: by
the definition, in plain torch, without an engine, which sees a prompt as it was. `--storage` may be given again.

`kl` is by how many nats a token the model says something else than it did, which tells forms apart where texts are none
that the model has learned: of those it may even say a little more when it is less sure of all it says.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from corm_batch.engine.bases import RebuiltBatch, find_bases
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.text_batch import TextBatch
from corm_batch.evaluation.fact_suite import haystack_text
from corm_batch.ops.basis import Basis
from corm_batch.storage.base import Storage
from infra.measure.record import begin_record, write_record
from infra.measure.texts import mean_loss, opened, parser_of, pieces


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What is lost by form."""
    _, _, model, encode = opened(options)
    texts = list(pieces(encode, haystack_text(options.text), options.tokens, options.texts, model.device))
    forms = [Storage.from_spec(yaml.safe_load(asked)) for asked in options.storage]
    found = [find_bases(model, form) for form in forms]
    if None in found:
        raise SystemExit(f"--storage {options.storage[found.index(None)]}: expected a form of low rank")
    by_form = [bases for bases in found if bases is not None]
    losses = torch.stack([_losses(model, ids, by_form) for ids in texts], dim=-1)
    rows, width = [], 2 * model.shape.head_dim
    for form, bases, (less, other) in zip(forms, by_form, losses, strict=True):
        ranks = [(basis.key.shape[-1], basis.value.shape[-1]) for basis in bases]
        held = round(sum(map(sum, ranks)) / (width * len(ranks)), 3)
        kl, half = mean_loss(other).values()
        alike = len(set(ranks)) == 1
        rows.append({"storage": form.to_spec(), "bytes": held, **mean_loss(less), "kl": kl, "kl_half": half,
                     "ranks": ranks[0] if alike else ranks})  # fmt: skip
    return {"head_dim": model.shape.head_dim, "rows": rows}


def _losses(model: LoadedModel, ids: Tensor, by_form: Sequence[Sequence[Basis]]) -> Tensor:
    """[forms, 2] nats a token by which a text is less likely, and by which the model says something else."""

    def said(batch: TextBatch) -> Tensor:
        return model.forward(batch)[:-1].float().log_softmax(dim=-1)

    before, losses = said(TextBatch(ids)), []
    for bases in by_form:
        after = said(RebuiltBatch(ids, bases))
        less = (before - after).gather(1, ids[1:, None]).mean()
        other = torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean")
        losses.append(torch.stack((less, other)))
    return torch.stack(losses)


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
