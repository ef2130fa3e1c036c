"""What every policy loses at the same bytes: facts of held-out books, and the full cache's own answers about texts.

    python -m infra.measure.policy_table jobs/quickstart/job.yaml --output out/policies --record RECORD.json

One `corm-batch eval` with every policy that takes a budget at each share of a document's entries, beside the job's own
policy and `preset: paper`, the question behind the document or, with `--position hidden`, asked once that is
compressed; all entries as the model computes them. Run again, it goes on. The record holds the figures over all
lengths. Everything behind `--` is handed to `corm-batch eval`. With --document FILE the tables of the records given are
written between the markers of that file instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corm_batch.evaluation.paired import Difference
from corm_batch.evaluation.result import ALL, Evaluation, Figure
from corm_batch.report.evaluation import difference_text
from corm_batch.report.units import percent_text
from infra.measure.performance_table import replaced, table_line

SHARES = "0.5,0.35,0.25,0.15"
DATA = "infra/training/evaluation"
SUITES = (
    f"{{name: needles, haystack: {DATA}/books.parquet, tasks: [pass_key, one_of_several, magic_number]}}",
    f"books={{name: likelihood, documents: {DATA}/books.parquet}}",
    f"meetings={{name: likelihood, documents: {DATA}/meetings.parquet}}",
)
POSITIONS = ("after", "before", "hidden")
SCORES = {"needles": "said", "books": "logprob", "meetings": "logprob"}


def suites(position: str) -> Iterator[str]:
    """What `corm-batch eval --suite` takes: `SUITES` with the question there."""
    for suite in SUITES:
        yield suite if position == POSITIONS[0] else f"{suite[:-1]}, position: {position}}}"


def policies(shares: Iterable[float]) -> Iterator[str]:
    """What `corm-batch eval --policy` takes: each policy at each share, the newest 32 entries always kept."""
    yield "paper={name: corm, preset: paper}"
    for share in shares:
        budget, percent = f"budget: {{name: uniform, max_kept: {share}}}", round(100 * share)
        for label, fields in {
            "corm": f"name: corm, {budget}",
            "snapkv": f"name: snapkv, recent: 32, {budget}",
            "snapkv pooled 63": f"name: snapkv, recent: 64, window: 64, pooling: 63, {budget}",
            "snapkv adakv": f"name: snapkv, recent: 32, budget: {{name: adakv, max_kept: {share}}}",
            "snapkv pyramidkv": f"name: snapkv, recent: 32, budget: {{name: pyramidkv, max_kept: {share}}}",
            "h2o": f"name: h2o, recent: 32, {budget}",
            "tova": f"name: tova, {budget}",
            "keydiff": f"name: keydiff, {budget}",
            "l2_norm": f"name: l2_norm, recent: 32, {budget}",
            "expected_attention": f"name: expected_attention, {budget}",
            "compactor": f"name: compactor, {budget}",
            "kvzip": f"name: kvzip, budget: {{name: adakv, max_kept: {share}, floor: 0}}",
            "kvzip 256": f"name: kvzip, chunk: 256, budget: {{name: adakv, max_kept: {share}, floor: 0}}",
        }.items():
            yield f"{label.replace(' ', '-')}-{percent}={{{fields}}}"


def evaluate(options: argparse.Namespace) -> Evaluation:
    """Run the evaluation, and read what it wrote.

    Raises:
        SystemExit: it ended with an error; what it answered is kept.
    """
    shares = [float(share) for share in options.shares.split(",")]
    given = [argument for policy in policies(shares) for argument in ("--policy", policy)]
    given += [argument for suite in suites(options.position) for argument in ("--suite", suite)]
    command = ["eval", options.job, *given, "--output", options.output, "--set", "engine.storage=model", *options.rest]
    ended = subprocess.run([sys.executable, "-m", "corm_batch.cli", *command], check=False)
    if ended.returncode not in (0, 3):
        raise SystemExit(ended.returncode)
    return Evaluation.model_validate_json(Path(options.output, "evaluation.json").read_text(encoding="utf-8"))


def compact(result: Evaluation) -> dict[str, Any]:
    """The record: what was asked, and each figure over all lengths."""
    asked = result.model_dump(mode="json", exclude={"figures", "failures", "command", "candidates"})
    wanted = over_all_lengths(result)
    rows = [one.model_dump(mode="json", exclude={"model", "group", "position"}) for one in wanted]
    return {"command": "python -m infra.measure.policy_table " + " ".join(sys.argv[1:]), **asked,
            "position": wanted[0].position, "failed": len(result.failures), "rows": rows}  # fmt: skip


def over_all_lengths(result: Evaluation) -> list[Figure]:
    """What a table shows: the score of each suite over all lengths, or of the only one there is."""
    several = {one.suite for one in result.figures if one.group == ALL}
    whole = (one for one in result.figures if (one.group == ALL) == (one.suite in several))
    return [one for one in whole if one.score == SCORES[one.suite]]


def table(record: Mapping[str, Any], reference: str = "full", rows: str = "policy") -> str:
    """Markdown: one row a policy, the most bytes first, and what it loses of each task.

    Args:
        record: see `compact`.
        reference: what all are compared with.
        rows: what a row is; "policy", or something whose rows stay in order and whose facts stand together, too.
    """
    figures = [Figure(model="", group=ALL, position="", **row) for row in record["rows"]]
    apart = rows == "policy"
    asked = dict.fromkeys((one.suite, one.task) for one in figures)
    tasks = [task for task in asked if not apart or task != ("needles", ALL)]
    found = {(one.candidate, one.suite, one.task): one for one in figures}
    heads = [task.replace(ALL, "facts, all") if suite == "needles" else f"{suite}, nats" for suite, task in tasks]
    model, first = record["model"], [next(one for one in figures if (one.suite, one.task) == task) for task in tasks]
    lines = [
        f"{model['name']}, {model['dtype']}, {record['device']}; {record['cases']} cases of each task and of each of "
        f"{', '.join(f'{length:,}' for length in record['lengths'])} tokens; "
        f"{record['position']}.",
        "",
        table_line([rows, "kept", "peak/full", *heads]),
        "|---" * (len(heads) + 3) + "|",
        f"| {reference}, score | | | {' | '.join(_score(one) for one in first)} |",
        f"| {reference} against itself | | | {' | '.join(_lost(one.floor, one.share) for one in first)} |",
    ]
    peaks = {one.candidate: one.cost.peak_ratio for one in reversed(figures)}
    for label in sorted(peaks, key=lambda label: -peaks[label]) if apart else reversed(peaks):
        mine = [found[label, *task] for task in tasks if (label, *task) in found]
        cells = [_lost(one.against, one.share) for one in mine]
        kept, peak = (percent_text(value) for value in (mine[0].cost.kept_ratio, mine[0].cost.peak_ratio))
        lines.append(table_line([label, kept, peak, *cells]))
    return "\n".join(lines) + "\n"


def _lost(found: Difference, share: bool) -> str:
    return difference_text(found, share).removesuffix(" points")


def _score(figure: Figure) -> str:
    return percent_text(figure.against.here) if figure.share else f"{figure.against.here:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record, or write records' tables into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", help="whose model, engine and own policy are measured")
    parser.add_argument("--output", default="out/policies", help="where answers are kept, local")
    parser.add_argument("--shares", default=SHARES)
    parser.add_argument("--position", choices=POSITIONS, default=POSITIONS[0], help="where the question stands")
    parser.add_argument("--record", type=Path, action="append", required=True)
    parser.add_argument("--document", type=Path)
    options = split_arguments(parser, arguments)
    if options.document is None:
        write_compact(compact(evaluate(options)), options.record[0])
    write_tables(options, table, "policies")


def split_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What a table's command is given; what stands behind `--` becomes `rest`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:own])
    options.rest = given[own + 1 :]
    return options


def write_compact(record: Mapping[str, Any], path: Path) -> None:
    """A record without this machine's folders."""
    content = json.dumps(record, indent=1).replace(f"{Path.cwd()}/", "")
    path.write_text(f"{content}\n", encoding="utf-8")


def write_tables(options: argparse.Namespace, table_of: Callable[[Mapping[str, Any]], str], name: str) -> None:
    """The tables of the records given: printed, or between the markers of this name in the document that is given."""
    written = "\n".join(table_of(json.loads(path.read_text(encoding="utf-8"))) for path in options.record)
    if options.document is None:
        print(written)
        return
    document = options.document.read_text(encoding="utf-8")
    options.document.write_text(replaced(document, written.rstrip("\n"), name), encoding="utf-8")


if __name__ == "__main__":
    main()
