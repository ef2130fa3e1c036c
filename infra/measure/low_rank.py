"""What a model loses whose keys and values are seen as a form of low rank stores them.

    python -m infra.measure.low_rank jobs/quickstart/job.yaml --text infra/training/evaluation/books.parquet \\
        --storage '{name: lorc, key_share: 0.7, value_share: 0.9}' --output RECORD.json

How many nats a token texts lose when every key and value of every layer is as the form has it, the tokens' own, too: by
the definition, in plain torch, without an engine, which sees a prompt as it was. `--storage` may be given again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from corm_batch.engine.bases import RebuiltBatch, find_bases
from corm_batch.engine.loader import LoadedModel, load_model
from corm_batch.evaluation.fact_suite import haystack_text
from corm_batch.ops.basis import Basis
from corm_batch.ops.pages import stored_bytes
from corm_batch.pipeline.model import load_tokenizer, model_path
from corm_batch.spec import JobSpec
from corm_batch.storage.base import Storage
from infra.measure.record import begin_record, write_record
from infra.measure.shared_layers import pieces


def nats(model: LoadedModel, texts: Sequence[Tensor], bases: Sequence[Basis] | None) -> Tensor:
    """[texts] by which the tokens of each are unlikely, mean over its tokens."""
    said = ((model.forward(RebuiltBatch(ids, bases))[:-1].float(), ids[1:]) for ids in texts)
    return torch.stack([F.cross_entropy(logits, ids) for logits, ids in said])


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What is lost by form."""
    job = JobSpec.load(options.job, options.set)
    path, device = model_path(job.model), torch.device(options.device)
    model = load_model(path, getattr(torch, job.model.dtype), device, revision=job.model.revision)
    encode = load_tokenizer(job.model, path).text_ids
    texts = list(pieces(encode, haystack_text(options.text), options.tokens, options.texts, device))
    rows, before, head_dim = [], nats(model, texts, None), model.shape.head_dim
    for asked in options.storage:
        form = Storage.from_spec(yaml.safe_load(asked))
        lost = nats(model, texts, find_bases(model, form)) - before
        rows.append(
            {
                "storage": form.to_spec(),
                "bytes": round(stored_bytes(form, head_dim, model.dtype) / (2 * head_dim * model.dtype.itemsize), 3),
                "nats": round(float(lost.mean()), 4),
                "half": round(1.96 * float(lost.std()) / math.sqrt(len(lost)), 4),  # of the 95 % interval, over texts
            }
        )
    return {"head_dim": head_dim, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", help="whose model is looked at")
    parser.add_argument("--set", metavar="A.B=VALUE", action="append", default=[], help="change the job")
    parser.add_argument("--text", required=True, help="Parquet file with a column text: what is lost on")
    parser.add_argument(
        "--storage", metavar="YAML", action="append", required=True, help="a form, as in engine.storage"
    )
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    asked = {name: getattr(options, name) for name in ("texts", "tokens", "device")}
    write_record(begin_record("low_rank", job=options.job, **asked) | measure(options), options.output)


if __name__ == "__main__":
    main()
