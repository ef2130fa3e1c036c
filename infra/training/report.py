"""The record of an evaluation as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def percent(found: Record) -> str:
    """A share and its interval."""
    return f"{found['share']:.1%} ({100 * found['low']:.1f}–{100 * found['high']:.1f})"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under a title."""
    lines = [header, ["---"] * len(header), *rows]
    return f"\n## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(policy: str, groups: Record) -> str:
    """Tasks by lengths, under one policy: answers that are the fact, and answers that say it."""
    lengths = {group.split()[1]: found["scores"] for group, found in groups.items() if group.startswith("facts")}
    tasks = dict.fromkeys(task for scores in lengths.values() for task in scores)
    kinds = ("exact", "said")
    rows = [[task, *(percent(scores[task][kind]) for scores in lengths.values() for kind in kinds)] for task in tasks]
    header = ["task", *(f"{length} {kind}" for length in lengths for kind in kinds)]
    return table(f"Facts: {policy}", header, rows)


def squad(policies: Record) -> str:
    """Paragraphs alone and planted."""
    rows = [
        [policy, text, str(scores["exact"]["cases"]), percent(scores["exact"]), f"{scores['f1']:.1%}"]
        for policy, groups in policies.items()
        for group, found in groups.items()
        if group.startswith("squad")
        for text, scores in found["scores"].items()
    ]
    return table("SQuAD", ["policy", "text", "cases", "exact", "F1"], rows)


def summaries(policies: Record) -> str:
    """Tasks under every policy."""
    header = ["policy", "task", "cases", "ROUGE-L F1", "words", "degenerate", "ended by itself"]
    rows = [
        [policy, task, str(scores["ended"]["cases"]), f"{scores['rouge_l']:.1%}", f"{scores['words']:.0f}"]
        + [percent(scores[name]) for name in ("degenerate", "ended")]
        for policy, groups in policies.items()
        for task, scores in groups.get("summaries", {"scores": {}})["scores"].items()
    ]
    return table("Summaries", header, rows)


def others(policies: Record) -> str:
    """Every score of every task of suites that have no table of their own."""
    rows = [
        [policy, group, task, name, percent(value) if isinstance(value, Mapping) else f"{value:.3g}"]
        for policy, groups in policies.items()
        for group, found in groups.items()
        if not group.startswith(("facts", "squad", "summaries"))
        for task, scores in found["scores"].items()
        for name, value in scores.items()
    ]
    return table("Other suites", ["policy", "group", "task", "score", "value"], rows) if rows else ""


def memory(policies: Record) -> str:
    """What every group of cases kept and freed."""
    header = ["policy", "group", "kept", "freed after prefill", "freed at peak", "kept by layer, %"]
    rows = []
    for policy, groups in policies.items():
        for group, found in groups.items():
            cost = found["memory"]
            shares = [f"{cost[name]:.1%}" for name in ("kept_ratio", "freed_after_prefill", "freed_at_peak")]
            layers = " ".join(f"{100 * kept:.0f}" for kept in cost["kept_by_layer"])
            rows.append([policy, group, *shares, layers])
    return table("Entries kept at the end of the answer, and bytes freed", header, rows)


def tables(results: Record) -> Iterator[str]:
    """All of them."""
    policies = results["policies"]
    for policy, groups in policies.items():
        yield facts(policy, groups)
    yield squad(policies)
    yield summaries(policies)
    yield others(policies)
    rows = [[size, f"{f['perplexity']:.2f}", str(f["windows"])] for size, f in results["perplexity"].items()]
    yield table("Perplexity of held-out books", ["window", "perplexity", "windows"], rows)
    yield memory(policies)
