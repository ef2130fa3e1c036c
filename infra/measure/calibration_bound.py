"""Measure whether what a calibration promises is true, on jobs whose every policy's loss is known.

    python -m infra.measure.calibration_bound                 # 1,000 calibrations of each kind, some minutes
    python -m infra.measure.calibration_bound --calibrations 100 --output /tmp/calibration_bound.json

Every kind has twenty policies whose mean losses rise as their bytes fall, from far below the limit of 1 % to far above
it. What a document loses under a policy is drawn about that mean, in a shape of its kind; documents that lose much
under one lose much under all. Rounds, finalists and bounds are those of the command. Writes
infra/measure/results/calibration_bound.json and prints it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from corm_batch.calibration.bound import CONFIDENCE
from corm_batch.calibration.contest import FULL, Clock, Contest
from corm_batch.calibration.loss import DocumentLoss, nats_of
from corm_batch.calibration.verdicts import Verdicts
from corm_batch.data.document import Document
from corm_batch.engine.figures import MemoryStats
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.full import Full
from infra.measure.record import begin_record, write_record


def _few(rng: np.random.Generator, count: int, share: float) -> np.ndarray[Any, Any]:
    """Next to nothing for most documents, much for a share of them."""
    return rng.normal(0.1, 0.3, count) + (rng.random(count) < share) * rng.exponential(0.9 / share, count)


LIMIT = nats_of(0.01)
POLICIES = 20
SHAPES: Mapping[str, Callable[[np.random.Generator, int], np.ndarray[Any, Any]]] = {
    "normal": lambda rng, count: rng.normal(1.0, 1.0, count),
    "exponential": lambda rng, count: rng.exponential(1.0, count),
    "lognormal": lambda rng, count: rng.lognormal(-0.5, 1.0, count),
    "one in three": lambda rng, count: _few(rng, count, 0.3),
    "one in ten": lambda rng, count: _few(rng, count, 0.1),
}
"""What documents lose, in multiples of a policy's mean loss; the mean of each is 1."""


@dataclass
class Known:
    """Policies whose losses are drawn."""

    rng: np.random.Generator
    shape: str
    means: Mapping[str, float]
    ratios: Mapping[str, float]
    failed: dict[str, str] = field(default_factory=dict)
    losses: dict[str, dict[str, DocumentLoss]] = field(default_factory=dict)

    @property
    def policies(self) -> Mapping[str, KVPolicy]:
        """All but the full cache; what they are does not matter."""
        return dict.fromkeys(self.means, Full())

    def run(self, documents: Sequence[Document], labels: Sequence[str]) -> list[str]:
        """Draw what these documents lose."""
        shared = SHAPES[self.shape](self.rng, len(documents))
        for label in (FULL, *labels):
            own = SHAPES[self.shape](self.rng, len(documents))
            mean, ratio = (0.0, 1.03) if label == FULL else (self.means[label], self.ratios[label])
            memory = MemoryStats(kv_bytes_full=1000, kv_bytes_peak=int(1000 * ratio))
            for document, of_all, of_one in zip(documents, shared, own, strict=True):
                nats = mean * float(0.7 * of_all + 0.3 * of_one)
                self.losses.setdefault(label, {})[document.doc_id] = DocumentLoss(nats, nats > LIMIT, memory)
        return [document.doc_id for document in documents]

    def of(self, label: str, documents: Sequence[str]) -> list[DocumentLoss]:
        """What was drawn."""
        known = self.losses.get(label, {})
        return [known[doc_id] for doc_id in documents if doc_id in known]


def simulate(shape: str, documents: int, calibrations: int, seed: int = 0) -> dict[str, Any]:
    """What became of calibrations of one kind.

    Returns:
        `chosen`: those that chose a policy; of these `true`: whose bound is no less than the policy's loss, `kept`:
        whose policy keeps the limit; `bytes`: held by it, mean; `all_true`: all calibrations without a wrong promise.
    """
    rng = np.random.default_rng(seed)
    chosen, true, kept, ratios = 0, 0, 0, []
    for _ in range(calibrations):
        shares = np.sort(rng.uniform(0.05, 0.95, POLICIES))
        means = LIMIT * np.exp(rng.normal(3.0 * (0.4 - shares) / 0.3, 0.7))
        names = [f"{place:02}" for place in range(POLICIES)]
        mean_of, ratio_of = (dict(zip(names, values.tolist(), strict=True)) for values in (means, shares))
        known = Known(rng, shape, mean_of, ratio_of)
        now = time.monotonic()
        contest = Contest([Document(str(i), "") for i in range(documents)], known, LIMIT, Clock(now, now + 600))
        contest.run()
        verdicts = Verdicts(contest, {})
        if (label := verdicts.chosen) is not None:
            chosen += 1
            true += verdicts.bounds[label].high >= known.means[label]
            kept += known.means[label] <= LIMIT
            ratios.append(known.ratios[label])
    return {
        "shape": shape, "documents": documents, "calibrations": calibrations, "chosen": chosen / calibrations,
        "true": true / max(1, chosen), "kept": kept / max(1, chosen),
        "bytes": float(np.mean(ratios)) if ratios else None,
        "all_true": (calibrations - chosen + true) / calibrations,
    }  # fmt: skip


def main() -> None:
    """Simulate every kind and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrations", type=int, default=1000, help="of each kind")
    parser.add_argument("--documents", type=int, nargs="*", default=[16, 32, 48])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/calibration_bound.json")
    options = parser.parse_args()
    record = begin_record("calibration_bound", limit=LIMIT, policies=POLICIES, confidence=CONFIDENCE)
    record["kinds"] = [simulate(shape, count, options.calibrations) for shape in SHAPES for count in options.documents]
    write_record(record, options.output)


if __name__ == "__main__":
    main()
