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
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures, Running
from corm_batch.engine.checkpoint import weights_sha256
from corm_batch.engine.loader import LoadedModel, load_model
from corm_batch.evaluation.fact_suite import haystack_text
from corm_batch.evaluation.run import job_texts
from corm_batch.ops.causal import causal_attention
from corm_batch.pipeline.model import load_tokenizer, model_path
from corm_batch.spec import JobSpec
from infra.measure.record import begin_record, write_record


class SharingBatch:
    """A text in one pass in which some layers attend to what another one's keys and values are.

    Args:
        ids: [T] of the text.
        takes: by layer, whose it takes, an earlier one's.

    Attributes:
        held: by layer, its own keys and values, [K, T, D] each.
    """

    def __init__(self, ids: Tensor, takes: Mapping[int, int]) -> None:
        self.input_ids, self.takes = ids, takes
        self.positions = self.logit_rows = torch.arange(len(ids), device=ids.device)
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Causal attention, [H, T, D]."""
        self.held[layer] = key_KTD, value_KTD
        key, value = self.held[self.takes.get(layer, layer)]
        out, _ = causal_attention(
            query_HTD, key, value, features.scale, features.softcap, features.window, features.sink_H
        )
        return out


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


def nats(model: LoadedModel, texts: Sequence[Tensor], takes: Mapping[int, int]) -> Tensor:
    """[texts] by which the tokens of each are unlikely, mean over its tokens."""
    said = ((model.forward(SharingBatch(ids, takes))[:-1].float(), ids[1:]) for ids in texts)
    return torch.stack([F.cross_entropy(logits, ids) for logits, ids in said])


def pieces(encode: Any, text: str, length: int, count: int, device: torch.device) -> Iterator[Tensor]:
    """[T] token ids of pieces, evenly spread over a text, each begun as the tokenizer begins one; none is shorter for
    being the last, and all are the whole text where that is no longer."""
    for number in range(count):
        start = min(number * len(text) // count, max(0, len(text) - 16 * length))
        yield torch.tensor(encode(text[start : start + 16 * length], begin=True)[:length], device=device)


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The search, and what is lost by number of layers."""
    job = JobSpec.load(options.job, options.set)
    path, device = model_path(job.model), torch.device(options.device)
    model = load_model(path, getattr(torch, job.model.dtype), device, revision=job.model.revision)
    encode = load_tokenizer(job.model, path).text_ids
    seen = list(pieces(encode, "\n\n".join(job_texts(job)), 64, 30, device))
    others = list(pieces(encode, haystack_text(options.text), options.tokens, options.texts, device))
    pairs = unlike_pairs(model, seen, nearest=options.nearest)
    most = max(1, round(options.share * model.shape.num_layers))
    takes = share(model, seen, pairs, most, options.cosine)
    rows, so_far, before = [], dict[int, int](), nats(model, others, {})
    for later, earlier in takes.items():
        so_far[later] = earlier
        lost = nats(model, others, so_far) - before
        half = 1.96 * float(lost.std()) / math.sqrt(len(lost))  # of the 95 % interval, over texts
        rows.append({"takes": [later, earlier], "nats": round(float(lost.mean()), 4), "half": round(half, 4)})
    about = {"model": Path(path).name, "weights_sha256": weights_sha256(path), "num_layers": model.shape.num_layers}
    return {**about, "wanted": most, "sharing": takes, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", help="whose model is looked at, and whose documents are read for the search")
    parser.add_argument("--set", metavar="A.B=VALUE", action="append", default=[], help="change the job")
    parser.add_argument("--text", required=True, help="Parquet file with a column text: what is lost on")
    parser.add_argument("--share", type=float, default=0.3, help="of the layers, that take another one's")
    parser.add_argument("--cosine", type=float, default=0.5, help="that hidden states keep at least")
    parser.add_argument("--nearest", action="store_true", help="begin with the pairs that are most alike")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error(f"--share: a share above 0, at most 1, got {options.share}")
    asked = {name: getattr(options, name) for name in ("share", "cosine", "nearest", "texts", "tokens", "device")}
    record = begin_record("shared_layers", job=options.job, **asked)
    write_record(record | measure(options), options.output)


if __name__ == "__main__":
    main()
