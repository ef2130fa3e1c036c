"""What settings that trade accuracy for speed cost the answers: narrow weights and entries, propagation, streaming.

    python -m infra.measure.settings_table jobs/released/job.yaml --output out/settings --record RECORD.json

Facts of held-out books are asked for, and the full cache's own answers about texts scored token by token, under the
job's own policy with each of the settings: beside the full cache, and beside the same policy without them. Both are
answered twice, which is the noise. Entries are stored as the model computes them unless a row says otherwise. Run
again, it goes on. Everything behind `--` is set in the job, as in `model.dtype=bfloat16`.
`--also 'three heads=model.name=FOLDER'` adds a row: another setting, or another model with the same tokenizer; given
again with the same label, both are set. With --document FILE the tables of the records given are written between the
markers of that file instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corm_batch.cli.policy_option import read_labelled
from corm_batch.evaluation.answers import AnswerStore
from corm_batch.evaluation.base import Suite
from corm_batch.evaluation.result import Evaluation
from corm_batch.evaluation.run import Plan, Progress, run_evaluation
from corm_batch.pipeline.model import load_tokenizer, model_loader, model_path, revision_hash
from corm_batch.policies.base import KVPolicy
from corm_batch.spec import JobSpec
from infra.measure.policy_table import SUITES, over_all_lengths, split_arguments, table, write_compact, write_tables

WEIGHTS, ENTRIES, STREAMING = "model.weights=fp8", "engine.storage=fp8", "engine.prefill=streaming"
PROPAGATION = "engine.propagation={{name: attention, layer: half, share: {share}, pooling: 31}}"
SETTINGS: Mapping[str, Sequence[str]] = {
    "fp8 weights": (WEIGHTS,),
    "fp8 entries": (ENTRIES,),
    "int8 entries": ("engine.storage=int8",),
    "int4 entries": ("engine.storage=int4",),
    "think entries": ("engine.storage=think",),
    "lorc entries": ("engine.storage=lorc",),
    "fp8 weights and entries": (WEIGHTS, ENTRIES),
    "propagation 30 %": (PROPAGATION.format(share=0.3),),
    "propagation 50 %": (PROPAGATION.format(share=0.5),),
    "streaming": (STREAMING,),
    "streaming, fp8 weights and entries": (STREAMING, WEIGHTS, ENTRIES),
    "streaming, propagation 30 %": (STREAMING, PROPAGATION.format(share=0.3)),
}
"""By label, what is set in the job."""
BESIDE = {
    "full": "Beside the full cache in the model's own numbers:",
    "default": "Beside the job's policy without the settings:",
}


def plans(options: argparse.Namespace) -> Iterator[tuple[str, Plan]]:
    """The two evaluations, by what the settings are compared with; they share all answers but the second noise run's.

    Raises:
        SpecError: the job or a setting is wrong.
    """
    plain = ["engine.storage=model", *options.rest]
    own = JobSpec.load(options.job, plain)
    full = own.model_copy(update={"policy": KVPolicy.from_spec({"name": "full"})})
    rows = {label: JobSpec.load(options.job, [*plain, *sets]) for label, sets in asked_rows(options).items()}
    suites: dict[str, Suite] = {}
    for given in SUITES:
        label, fields = read_labelled("--suite", given)
        suites[label or fields["name"]] = Suite.from_spec(fields)
    lengths = [int(length) for length in options.lengths.split(",")]
    command = f"python -m infra.measure.settings_table {' '.join(sys.argv[1:])}"
    asked = suites, lengths, options.cases, "evaluation", command
    weights = revision_hash(own.model)
    others = {label: revision_hash(job.model) for label, job in rows.items()}
    yield "full", Plan(full, weights, {"default": own, **rows}, *asked, other_weights=others)
    yield "default", Plan(own, weights, rows, *asked, author=full, other_weights=others)


def asked_rows(options: argparse.Namespace) -> dict[str, list[str]]:
    """By label, what is set in the job: the settings asked for, and those of `--also`."""
    rows = {label: [*SETTINGS[label]] for label in options.settings}
    for label, _, override in (also.partition("=") for also in options.also):
        rows.setdefault(label, []).append(override)
    return rows


def evaluate(plan: Plan, folder: str) -> Evaluation:
    """Answer what the folder does not hold yet, and compare."""

    def load(job: JobSpec) -> Any:
        model = model_loader(job)()
        return model.engine, model.tokenizer

    def tell(progress: Progress) -> None:
        print(f"{progress.label}: {progress.done} of {progress.cases}, {progress.seconds:.0f} s", file=sys.stderr)

    model = plan.reference.model
    tokenizer = load_tokenizer(model, model_path(model))
    return run_evaluation(plan, tokenizer, load, AnswerStore(f"{folder}/answers"), tell)


def compact(beside: Mapping[str, Evaluation], rows: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The record: what was asked, and each figure over all lengths, by what the settings are compared with.

    Args:
        beside: the evaluations.
        rows: by label, what was set in the job.
    """
    first = next(iter(beside.values()))
    asked = first.model_dump(mode="json", exclude={"figures", "failures", "candidates", "note"})
    candidates = [one.model_dump(mode="json") for one in first.candidates]
    settings = {one["label"]: list(rows.get(one["label"], ())) for one in candidates}
    return {**asked, "position": first.figures[0].position, "policy": candidates[0]["policy"], "settings": settings,
            "failed": {name: len(one.failures) for name, one in beside.items()},
            "beside": {name: _rows(one) for name, one in beside.items()}}  # fmt: skip


def _rows(found: Evaluation) -> list[dict[str, Any]]:
    left_out = {"model", "group", "position", "policy"}
    return [one.model_dump(mode="json", exclude=left_out) for one in over_all_lengths(found)]


def tables(record: Mapping[str, Any]) -> str:
    """Markdown: a table for each comparison, of one row a setting."""
    parts = []
    for name, rows in record["beside"].items():
        filled = {**record, "rows": [row | {"policy": {}} for row in rows]}
        parts.append(f"{BESIDE[name]} {table(filled, name, 'setting')}")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record, or write records' tables into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", help="whose model, engine and own policy are measured")
    parser.add_argument("--output", default="out/settings", help="where answers are kept, local")
    parser.add_argument(
        "--also", metavar="LABEL=A.B=VALUE", action="append", default=[], help="a row beside --settings"
    )
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--cases", type=int, default=25, help="of each task and length")
    parser.add_argument("--lengths", default="1024,2048,4096,7000")
    parser.add_argument("--record", type=Path, action="append", required=True)
    parser.add_argument("--document", type=Path)
    options = split_arguments(parser, arguments)
    if options.document is None:
        found = {name: evaluate(plan, options.output) for name, plan in plans(options)}
        write_compact(compact(found, asked_rows(options)), options.record[0])
    write_tables(options, tables, "settings")


if __name__ == "__main__":
    main()
