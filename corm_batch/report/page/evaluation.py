"""render_evaluation: an evaluation as one HTML page. What is written about it is in evaluation.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from corm_batch.report.evaluation import (
    FIGURE_HEADS,
    about_rows,
    difference_text,
    failure_rows,
    figure_cells,
    group_title,
    same_text_shares,
    settings_text,
)
from corm_batch.report.page.charts import Figure as ChartFigure
from corm_batch.report.page.frame import Cell, Grid, render
from corm_batch.report.page.svg import Chart, linear_axis, up_to
from corm_batch.report.units import one_line, percent_text

if TYPE_CHECKING:
    from corm_batch.evaluation.result import Evaluation, Figure

_NAME, _NOTE = 200, 40


class Labelled(Protocol):
    """A policy as it was tried: its label, and every field of it."""

    @property
    def label(self) -> str:
        """What figures call it."""

    @property
    def policy(self) -> Mapping[str, Any]:
        """Its section of a spec."""


_ROOM = 1.1


def render_evaluation(result: Evaluation) -> str:
    """The page of an evaluation: a curve and a table for each suite's groups, policies, failures, how it was made."""
    by_group: dict[str, list[Figure]] = {}
    for figure in result.figures:
        by_group.setdefault(group_title(figure), []).append(figure)
    return render(
        "evaluation.html",
        model=one_line(result.model["name"], _NAME),
        date=result.date,
        note=result.note,
        curves=[curve(found) for found in result.groups()],
        tables=[(title, _table(found)) for title, found in by_group.items()],
        candidates=settings_grid(result.candidates),
        failures=Grid(
            "Cases without an answer.",
            (("run", False), ("case", False), ("prompt tokens", True), ("reason", False)),
            [[*map(Cell, row)] for row in failure_rows(result)],
        ),
        about=about_rows(result),
    )


def settings_grid(policies: Iterable[Labelled]) -> Grid:
    """Every field of each policy."""
    return Grid(
        "Every field of each policy.",
        (("policy", False), ("settings", False)),
        [[Cell(one.label), Cell(settings_text(one.policy))] for one in policies],
    )


def curve(found: Sequence[Figure]) -> ChartFigure:
    """A score's differences against the bytes held, policy by policy, over all tasks of a group.

    Args:
        found: figures of one group and score, over all tasks first.
    """
    first = found[0]
    mine = sorted((one for one in found if one.task == first.task), key=lambda one: one.cost.peak_ratio)
    sides = [one.against for one in mine] + [one.floor for one in mine]
    bounds = [bound for side in sides for bound in (side.difference, side.low, side.high) if bound is not None]
    unit, name = (0.01, "points") if first.share else (1.0, first.score)
    high, low = up_to(max(0.0, *bounds) * _ROOM, unit), -up_to(-min(0.0, *bounds) * _ROOM, unit)
    x = linear_axis("peak bytes, of an uncompressed cache's", 0, up_to(max(1.0, mine[-1].cost.peak_ratio), 0.01),
                    unit=0.01, suffix="%")  # fmt: skip
    y = linear_axis(f"{first.score}: difference to the full cache, {name}", low, high, unit=unit)
    chart = Chart(f"{group_title(first)}: {first.score} lost against bytes held", x, y, height=360)
    if (floor := first.floor).low is not None and floor.high is not None:
        tip = f"floor: {difference_text(floor, first.share)}"
        chart.band([(x.low, floor.low, floor.high), (x.high, floor.low, floor.high)], "spread", tip)
    chart.line([(x.low, 0), (x.high, 0)], "divider", "as the full cache")
    chart.line([(one.cost.peak_ratio, one.against.difference) for one in mine], "median", "by bytes held")
    for one in mine:
        place, side = one.cost.peak_ratio, one.against
        tip = f"{one.candidate}: {difference_text(side, one.share)}, {percent_text(place)} of the bytes"
        if side.low is not None and side.high is not None:
            chart.line([(place, side.low), (place, side.high)], "whisker", tip)
        chart.dot(place, side.difference, "peak", tip)
        chart.note(place, side.difference, one_line(one.candidate, _NOTE))
    legend = (
        ("peak", "a policy"), ("whisker", "its 95 % interval"), ("spread", "interval of the floor"),
        ("divider", "as the full cache"),
    )  # fmt: skip
    caption = f"{first.against.cases} cases, task {first.task}; {first.position}. Interval: {first.against.interval}."
    return ChartFigure(f"{first.suite}, {first.group}: {first.score}", chart.markup(), legend, caption)


def _table(found: Sequence[Figure]) -> Grid:
    """Every task, policy and score of a group."""
    rows = []
    for one in found:
        values = (
            one.against.cases, one.against.here, one.against.there, one.against.difference, one.floor.difference,
            *same_text_shares(one), one.cost.kept_ratio,
            one.cost.peak_ratio,
        )  # fmt: skip
        names = [Cell(one.task), Cell(one.candidate), Cell(one.score)]
        rows.append(names + [Cell(text, value) for text, value in zip(figure_cells(one), values, strict=True)])
    columns = (("task", False), ("policy", False), ("score", False), *((head, True) for head in FIGURE_HEADS))
    return Grid("", columns, rows)
