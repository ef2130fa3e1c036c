"""Print what training runs measured along the way as Markdown tables.

python -m infra.training.curve infra/measure/results/reference_model/*.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any


def tables(name: str, lines: list[dict[str, Any]]) -> list[str]:
    """One run: the curve, then exactness by task and length, then the layers, both of its last measurement."""
    start, probes = lines[0], [line for line in lines if "exact" in line]
    last, settings = probes[-1], start["settings"]
    text = [
        f"### {name}: {start['parameters'] / 1e6:.1f} M parameters, {settings['optimizer']}, rate {settings['lr']:g}",
        "",
        "| tokens | seconds | perplexity | a >= 1/t | on the first token | kept, w = r = 256 |",
        "|---|---|---|---|---|---|",
    ]
    for probe in probes:
        means = [fmean(layer[share] for layer in probe["layers"]) for share in ("important", "first", "kept")]
        shares = " | ".join(f"{mean:.1%}" for mean in means)
        text.append(f"| {probe['tokens'] / 1e6:.0f} M | {probe['seconds']:.0f} | {probe['perplexity']} | {shares} |")
    lengths = list(last["exact"])
    heads = " | ".join(f"{int(n):,} tokens" for n in lengths)
    text += ["", f"| exact at the end | {heads} |", "|---" * (len(lengths) + 1) + "|"]
    for task in last["exact"][lengths[0]]:
        shares = " | ".join(f"{last['exact'][n][task]:.0%}" for n in lengths)
        text.append(f"| {task} | {shares} |")
    heads = " | ".join(map(str, range(len(last["layers"]))))
    text += ["", f"| layer | {heads} |", "|---" * (len(last["layers"]) + 1) + "|"]
    for share, label in (("important", "a >= 1/t"), ("first", "first token"), ("kept", "kept")):
        text.append(f"| {label} | {' | '.join(f'{layer[share]:.1%}' for layer in last['layers'])} |")
    return [*text, ""]


def main() -> None:
    """Every log that is named."""
    for path in map(Path, sys.argv[1:]):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        print(*tables(path.stem, lines), sep="\n")


if __name__ == "__main__":
    main()
