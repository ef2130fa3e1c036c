"""A table of shared layers for `engine: {sharing: FILE}` (KVSharer, arXiv 2410.18517), and what a model bears of it.

    python -m infra.measure.shared_layers jobs/quickstart/job.yaml --text infra/training/evaluation/books.parquet \\
        --output FILE.json

The paper's search: keys and values of each layer, mean over short texts of the job's documents; pairs of layers by how
far these are apart, the most unlike first; a later layer takes an earlier one's where the last hidden state of the
texts stays alike, by its cosine, until enough layers share. Then, for each number of layers in the order that the
search took them, how many nats a token other texts lose: with `--share` fewer are taken. `--nearest` begins with the
pairs most alike instead. By the definition, in plain torch: nothing is stored. The file names the model and the hash of
its weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corm_batch.engine.attention import Running
from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.text_batch import TextBatch
from corm_batch.evaluation.fact_suite import haystack_text
from corm_batch.evaluation.run import job_texts
from infra.measure.record import begin_record, write_record
from infra.measure.texts import mean_loss, nats, opened, parser_of, pieces


class SharingBatch(TextBatch):
    """A text in one pass in which some layers attend to what another one's keys and values are.

    Args:
        ids: [T] of the text.
        takes: by layer, whose it takes, an earlier one's.

    Attributes:
        held: by layer, its own keys and values, [K, T, D] each.
    """

    def __init__(self, ids: Tensor, takes: Mapping[int, int]) -> None:
        super().__init__(ids)
        self.takes = takes
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def seen(self, layer: int, key_KTD: Tensor, value_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """The taken ones."""
        self.held[layer] = key_KTD, value_KTD
        return self.held[self.takes.get(layer, layer)]


def hidden_states(model: LoadedModel, texts: Sequence[Tensor], takes: Mapping[int, int]) -> Tensor:
    """The last layer's, [all tokens, hidden]."""

    def one(ids: Tensor) -> Tensor:
        running = Running(SharingBatch(ids, takes))
        model.logits(running, running.batch.logit_rows[-1:])
        state: Tensor = running.output.last_hidden_state[0]
        return state

    return torch.cat([one(ids) for ids in texts])


def unlike_pairs(model: LoadedModel, texts: Sequence[Tensor], *, nearest: bool = False) -> list[tuple[int, int]]:
    """(later, earlier) layers, the farthest apart first: by keys and values of each, mean over the texts.

    Args:
        model: whose.
        texts: [T] each, all of a length.
        nearest: the other way round.
    """
    total: dict[int, Tensor] = {}
    for ids in texts:
        batch = SharingBatch(ids, {})
        model.forward(batch)
        for layer, both in batch.held.items():
            total[layer] = total.get(layer, torch.zeros(())) + torch.cat([part.flatten() for part in both]).float()
    apart = {
        (later, earlier): float((total[later] - total[earlier]).norm()) for later in total for earlier in range(later)
    }
    return sorted(apart, key=lambda pair: apart[pair], reverse=not nearest)


def share(
    model: LoadedModel, texts: Sequence[Tensor], pairs: Sequence[tuple[int, int]], most: int, least_cosine: float
) -> dict[int, int]:
    """By layer, whose keys and values it takes, in the order in which they were accepted: at most so many, as long as
    the hidden states' cosine, mean over tokens, stays above the least one. What is taken stays its layer's own."""
    before, takes = hidden_states(model, texts, {}), dict[int, int]()
    for later, earlier in pairs:
        if len(takes) == most:
            break
        if later in takes or earlier in takes or later in takes.values():
            continue
        tried = {**takes, later: earlier}
        if float(F.cosine_similarity(before, hidden_states(model, texts, tried), dim=-1).mean()) > least_cosine:
            takes = tried
    return takes


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The search, and what is lost by number of layers."""
    job, path, model, encode = opened(options)
    seen = list(pieces(encode, "\n\n".join(job_texts(job)), 64, 30, model.device))
    others = list(pieces(encode, haystack_text(options.text), options.tokens, options.texts, model.device))

    def unlikely(takes: Mapping[int, int]) -> Tensor:
        return nats(model, (SharingBatch(ids, takes) for ids in others))

    pairs = unlike_pairs(model, seen, nearest=options.nearest)
    most = max(1, round(options.share * model.shape.num_layers))
    takes = share(model, seen, pairs, most, options.cosine)
    rows, so_far, before = [], dict[int, int](), unlikely({})
    for later, earlier in takes.items():
        so_far[later] = earlier
        rows.append({"takes": [later, earlier], **mean_loss(unlikely(so_far) - before)})
    about = {"model": Path(path).name, "weights_sha256": weights_sha256(path), "num_layers": model.shape.num_layers}
    return {**about, "wanted": most, "sharing": takes, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = parser_of(__doc__, "whose model is looked at, and whose documents are read for the search")
    parser.add_argument("--text", required=True, help="Parquet file with a column text: what is lost on")
    parser.add_argument("--share", type=float, default=0.3, help="of the layers, that take another one's")
    parser.add_argument("--cosine", type=float, default=0.5, help="that hidden states keep at least")
    parser.add_argument("--nearest", action="store_true", help="begin with the pairs that are most alike")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error(f"--share: a share above 0, at most 1, got {options.share}")
    asked = {name: getattr(options, name) for name in ("share", "cosine", "nearest", "texts", "tokens", "device")}
    record = begin_record("shared_layers", job=options.job, **asked)
    write_record(record | measure(options), options.output)


if __name__ == "__main__":
    main()
