"""The performance tables, generated from the results of `corm-batch bench` in infra/measure/results.

    python -m infra.measure.performance_table

What stands between the two markers is replaced: in README.md by documents an hour beside vLLM, in the README.md of the
results by every figure there is. Every .json in the results' folder is read; what is no result of the benchmark or of
infra/measure/vllm.py is passed over. Where two results hold the same workload, prefill and engine, forms of
weights and entries included, on one device, the later one wins.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corm_batch.bench.result import BenchResult, Row
from corm_batch.bench.workload import WORKLOADS
from corm_batch.cli.bench import HEADS, row_cells
from corm_batch.engine.config import WeightForm

ROOT = Path(__file__).parents[2]


def read_records(folder: Path, key: str, start: str) -> dict[str, dict[str, Any]]:
    """Objects in the folder's .json files whose `key` begins with `start`, by file name."""
    contents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return {
        name: found
        for name, found in contents.items()
        if isinstance(found, dict) and str(found.get(key, "")).startswith(start)
    }


def read_results(folder: Path) -> dict[str, BenchResult]:
    """Results of the benchmark by file name, the oldest first.

    Raises:
        pydantic.ValidationError: a file says it is such a result and is not.
    """
    records = read_records(folder, "schema_version", "corm-batch bench")
    results = {name: BenchResult.model_validate(record) for name, record in records.items()}
    return dict(sorted(results.items(), key=lambda item: (item[1].date, item[0])))


def read_vllm(folder: Path) -> dict[str, dict[str, Any]]:
    """What infra/measure/vllm.py wrote of documents that are one prompt each, by file name."""
    records = read_records(folder, "engine", "vllm").items()
    plain = {name: [row for row in record["rows"] if "questions" not in row] for name, record in records}
    return {name: {**record, "rows": plain[name]} for name, record in records if plain[name]}


def newest_rows(results: Iterable[BenchResult]) -> dict[tuple[str, str, str], tuple[BenchResult, Row]]:
    """By workload, prefill and the row's name, workloads in the benchmark's own order; `results` the oldest first."""
    newest = {(row.workload, row.prefill, row.name): (result, row) for result in results for row in result.rows}
    places = {name: place for place, name in enumerate(WORKLOADS)}
    return dict(sorted(newest.items(), key=lambda item: (places.get(item[0][0], len(places)), item[0])))


def performance(results: dict[str, BenchResult], vllm: dict[str, dict[str, Any]]) -> str:
    """One table a device, what was measured how below it, and what stands beside vLLM."""
    devices = dict.fromkeys(result.device for result in results.values())
    tables = [
        device_table(device, {name: found for name, found in results.items() if found.device == device})
        for device in devices
    ]
    return "\n\n".join([*tables, *(vllm_table(name, record, results) for name, record in vllm.items())])


def vllm_table(name: str, record: dict[str, Any], results: dict[str, BenchResult]) -> str:
    """Documents an hour of vLLM, and how many times as many this package answered on a device of the same name."""
    lines = [
        f"Beside {record['engine']} ([{name}]({name}); `infra/measure/vllm.py`):",
        "",
        table_line(["workload", "vLLM", "documents/h", "engine", "prefill", "documents/h", "times vLLM"]),
        table_line(["---"] * 7),
    ]
    newest = newest_rows(result for result in results.values() if result.device == record["device"])
    for row in record["rows"]:
        theirs = row["documents_per_hour"]
        for (workload, prefill, engine), (_, ours) in newest.items():
            if workload == row["workload"] and ours.figures is not None:
                rate = ours.figures.documents_per_hour
                both = f"{theirs:,.0f}", engine, prefill, f"{rate:,.0f}", f"{rate / theirs:.2f}"
                lines.append(table_line((f"`{workload}`", vllm_form(row), *both)))
    return "\n".join(lines)


def vllm_form(row: Mapping[str, Any]) -> str:
    """In what form vLLM had weights and cache: `bfloat16`, `fp8 cache`, `fp8 weights` or `fp8`."""
    weights, cache = row.get("quantization") is not None, row.get("kv_dtype", "auto") != "auto"
    return "fp8" if weights and cache else "fp8 weights" if weights else "fp8 cache" if cache else "bfloat16"


def device_table(device: str, results: dict[str, BenchResult]) -> str:
    """A device's rows; under them what to know and where the figures are."""
    found = newest_rows(results.values())
    lines = [table_line(["workload", "prefill", *HEADS]), table_line(["---"] * (len(HEADS) + 2))]
    reasons = []
    for (workload, prefill, engine), (result, row) in found.items():
        lines.append(table_line([f"`{workload}`", prefill, *row_cells(result, row)]))
        if row.reason is not None:
            reasons.append(f"{workload}, {engine}: {row.reason}.")
    notes = [*dict.fromkeys(result.note for result in results.values()), *reasons]
    sources = [f"[{name}]({name}): `{result.command}`, {result.date[:10]}" for name, result in results.items()]
    return "\n".join([f"{device}:", "", *lines, "", " ".join(notes), "", *(f"* {source}" for source in sources)])


def table_line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def beside_vllm(results: dict[str, BenchResult], vllm: dict[str, dict[str, Any]]) -> str:
    """Documents an hour where vLLM's are known: its own, CORM's by prefill, and the better of these over it.

    CORM's are with weights in 8 bits where vLLM's are, and with entries in 8 bits where vLLM's cache is.
    """
    lines = [
        table_line(["workload", "weights and cache of vLLM", "vLLM", "corm, exact", "corm, streaming", "times vLLM"]),
        table_line(["---"] * 6),
    ]
    for record in vllm.values():
        newest = newest_rows(result for result in results.values() if result.device == record["device"])
        for row in record["rows"]:
            workload, theirs = row["workload"], row["documents_per_hour"]
            weights: WeightForm = "stored" if row.get("quantization") is None else "fp8"
            storage = "model" if row.get("kv_dtype", "auto") == "auto" else "fp8"
            ours = Row(workload=workload, engine="corm", prefill="exact", weights=weights, storage=storage).name
            found = [newest.get((workload, prefill, ours)) for prefill in ("exact", "streaming")]
            rates = [entry[1].figures.documents_per_hour if entry and entry[1].figures else None for entry in found]
            cells = [f"{rate:,.0f}" if rate is not None else "-" for rate in (theirs, *rates)]
            best = max((rate for rate in rates if rate is not None), default=None)
            times = "-" if best is None else f"{best / theirs:.2f}"
            lines.append(table_line([f"`{workload}`", vllm_form(row), *cells, times]))
    return "\n".join(lines)


def replaced(document: str, table: str, name: str = "performance") -> str:
    """`document` with `table` between the markers of that name.

    Raises:
        ValueError: it does not hold both markers once, in order.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in after:
        raise ValueError(f"expected {first} and, after it, {last}, once each")
    return f"{before}{first}\n\n{table}\n\n{last}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "infra/measure/results")
    options = parser.parse_args(arguments)
    results, vllm = read_results(options.results), read_vllm(options.results)
    tables = {options.readme: beside_vllm(results, vllm), options.results / "README.md": performance(results, vllm)}
    for path, table in tables.items():
        path.write_text(replaced(path.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
