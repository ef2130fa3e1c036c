"""An evaluation in words: the cells of its tables, as terminal and page show them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from corm_batch.report.totals import policy_text
from corm_batch.report.units import counted, percent_text

if TYPE_CHECKING:
    from corm_batch.evaluation.paired import Difference
    from corm_batch.evaluation.result import Evaluation, Figure
    from corm_batch.policies.base import KVPolicy

FIGURE_HEADS = (
    "cases", "full", "policy's", "difference (95 %)", "floor (95 %)", "same text", "floor's", "kept", "peak/full",
)  # fmt: skip


def group_title(figure: Figure) -> str:
    """`needles, facts 1024: question after the document`."""
    name = figure.suite if figure.group == figure.suite else f"{figure.suite}, {figure.group}"
    return f"{name}: {figure.position}"


def figure_cells(figure: Figure) -> tuple[str, ...]:
    """The texts under `FIGURE_HEADS`."""
    left_out = f" ({figure.failed} failed)" if figure.failed else ""
    return (
        f"{figure.against.cases}{left_out}",
        score_text(figure.against.here, figure.share),
        score_text(figure.against.there, figure.share),
        difference_text(figure.against, figure.share),
        difference_text(figure.floor, figure.share),
        *(percent_text(same) for same in same_text_shares(figure)),
        percent_text(figure.cost.kept_ratio),
        percent_text(figure.cost.peak_ratio),
    )


def same_text_shares(figure: Figure) -> tuple[float | None, float | None]:
    """The policy's and the floor's pairs with the same text, of all; None where answers were scored."""
    counts = figure.same_text, figure.floor_same_text
    first, second = (None if count is None else count / figure.against.cases for count in counts)
    return first, second


def score_text(value: float, share: bool) -> str:
    """`93.8%` of a share, `0.412` of a mean."""
    return percent_text(value) if share else f"{value:.3f}"


def difference_text(found: Difference, share: bool) -> str:
    """`-6.2 (-30.2..+17.1) points` of a share, `-0.031 (-0.052..-0.010)` of a mean."""
    scale, digits, unit = (100.0, 1, " points") if share else (1.0, 3, "")
    if found.low is None or found.high is None:
        return f"{scale * found.difference:+.{digits}f}{unit}"
    low, high = (f"{scale * bound:+.{digits}f}" for bound in (found.low, found.high))
    return f"{scale * found.difference:+.{digits}f} ({low}..{high}){unit}"


def settings_text(policy: Mapping[str, Any]) -> str:
    """Every field of a policy."""
    return policy_text(json.dumps(policy))


def policy_label(policy: KVPolicy) -> str:
    """Its name and the fields that are not at their defaults."""
    fields = policy.to_spec()
    defaults = {name: field.get_default() for name, field in type(policy).model_fields.items()}
    return settings_text({name: value for name, value in fields.items() if value != defaults.get(name)})


def about_rows(result: Evaluation) -> list[tuple[str, str]]:
    """What was asked of what, as (name, text)."""
    full = result.model.get("storage")
    forms = dict.fromkeys(one.storage for one in result.candidates if one.storage not in (None, full))
    return [
        ("model", f"{result.model['name']}, {_numbers(result.model)}, on {result.device}"),
        *([("entries", entries_text(map(str, forms), full))] if forms else []),
        ("full cache", "against itself: other cases beside each, half as many in flight"),
        ("differences", "the policy's score less the full cache's on the same cases; below zero it lost"),
        ("intervals", ", ".join(dict.fromkeys(f.against.interval for f in result.figures)) or "-"),
        ("seed, cases", f"{result.seed}, {counted(result.cases, 'case')} of each task and length at most"),
        ("command", result.command),
    ]


def entries_text(forms: Iterable[str], full: str | None) -> str:
    """In what forms policies' entries were stored, and in which the full cache's were."""
    own = "as the model computes them" if full in (None, "model") else f"as {full}"
    return f"under policies stored as {', '.join(forms)}, those of the full cache {own}"


def _numbers(model: Mapping[str, str]) -> str:
    """`bfloat16`, or `bfloat16 with fp8 weights and fp8 entries`."""
    forms = {"weights": model.get("weights", "stored"), "entries": model.get("storage", "model")}
    others = [f"{form} {what}" for what, form in forms.items() if form not in ("stored", "model")]
    return " with ".join([model["dtype"], *([" and ".join(others)] if others else [])])


def failure_rows(result: Evaluation) -> Iterable[tuple[str, str, str, str]]:
    """Cases without an answer: run, what was asked, tokens of the prompt, reason."""
    for one in result.failures:
        yield one.candidate, f"{one.suite}, {one.group}, {one.task}", f"{one.prompt_tokens:,}", one.reason
