"""render_calibration: a calibration as one HTML page, in the frame of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from corm_batch.calibration.halving import Standing, fronts
from corm_batch.calibration.loss import share_of
from corm_batch.calibration.result import Calibration, Tried
from corm_batch.calibration.section import section_text
from corm_batch.calibration.words import (
    HEADS,
    about_rows,
    bounds_text,
    cells,
    limit_text,
    loss_text,
    state_text,
    statement,
)
from corm_batch.report.page.charts import Figure
from corm_batch.report.page.evaluation import settings_grid
from corm_batch.report.page.frame import Cell, Grid, render
from corm_batch.report.page.svg import Axis, Chart, linear_axis, up_to
from corm_batch.report.units import counted, one_line, percent_text

_NAME, _NOTE = 200, 40
_FAR = 4.0
"""Losses beyond so many times the limit are drawn at the edge: what is near it is what matters."""


def render_calibration(result: Calibration) -> str:
    """The page: what came of it, the fronts of loss against bytes and against speed, every policy, how it was made."""
    chosen = result.of(result.chosen)
    measured = [one for one in result.tried if one.loss is not None and one.state != "full cache"]
    return render(
        "calibration.html",
        model=one_line(result.model["name"], _NAME),
        date=result.date,
        note=result.note,
        found=chosen is not None,
        statement=statement(result),
        section=section_text(result, chosen) if chosen else "",
        charts=[bytes_chart(result, measured), speed_chart(result, measured)] if measured else [],
        tried=_table(result.tried),
        policies=settings_grid(result.tried),
        about=list(about_rows(result)),
    )


def bytes_chart(result: Calibration, measured: Sequence[Tried]) -> Figure:
    """Loss against the bytes held."""
    highest = up_to(max(1.0, *(one.peak_ratio or 0.0 for one in measured)), 0.01)
    x = linear_axis("peak bytes, of an uncompressed cache's", 0, highest, unit=0.01, suffix="%")
    places = {one.label: one.peak_ratio or 0.0 for one in measured}
    return _front(result, measured, places, x, "Loss against bytes held", "fewer bytes are to the left")


def speed_chart(result: Calibration, measured: Sequence[Tried]) -> Figure:
    """Loss against documents an hour."""
    places = {one.label: one.documents_per_hour or 0.0 for one in measured}
    x = linear_axis("documents/h of one replica, as many side by side as here", 0, up_to(max(places.values())))
    return _front(
        result, measured, places, x, "Loss against speed",
        "measured with few documents side by side; a job fills its pool, with more of them the fewer bytes each holds",
    )  # fmt: skip


def _front(
    result: Calibration, measured: Sequence[Tried], places: dict[str, float], x: Axis, title: str, remark: str
) -> Figure:
    losses = {one.label: one.loss for one in measured if one.loss is not None}
    most = min(_FAR * result.limit, max(result.limit, *(one.mean for one in losses.values())) * 1.1)
    lowest = [found.low if one.held_out else found.mean for one in measured if (found := one.loss) is not None]
    least = min(0.0, *(max(value, -most) for value in lowest))
    high, low = up_to(share_of(most), 0.01), -up_to(-share_of(least), 0.01) if least < 0 else 0.0
    y = linear_axis("loss: rise of the answers' perplexity", low, high, unit=0.01, suffix="%")
    chart = Chart(f"{title}: {len(measured)} policies", x, y, height=400)
    limit = share_of(result.limit)
    chart.line([(x.low, limit), (x.high, limit)], "divider", f"limit: {limit_text(result)}")
    best = fronts({one.label: Standing([losses[one.label].mean], one.peak_ratio or 0.0) for one in measured})[0]
    for one in measured:
        loss = losses[one.label]
        place, height = places[one.label], _shown(share_of(loss.mean), y)
        tip = (
            f"{one.label}: {loss_text(loss.mean)} ({bounds_text(loss)}), {percent_text(one.peak_ratio)} of the bytes; "
        )
        tip += f"{counted(loss.documents, 'document')}, {state_text(one)}"
        if one.held_out is not None:
            bounds = [_shown(share_of(bound), y) for bound in (loss.low, loss.high)]
            chart.line([(place, bound) for bound in bounds], "whisker", tip)
        chart.dot(place, height, "dot" if one.held_out is None else "peak", tip)
        if one.label in best or one.held_out is not None:
            chart.note(place, height, one_line(one.label, _NOTE))
    legend = (
        ("dot", "a policy that went out on the way"), ("peak", "a finalist"),
        ("whisker", "what it may lose on all documents, 95 %"), ("divider", "the limit"),
    )  # fmt: skip
    beyond = sum(share_of(loss.mean) > high for loss in losses.values())
    caption = f"Losses of finalists are of {counted(result.held_out, 'document')} that did not choose them; {remark}."
    if beyond:
        caption += f" At the upper edge, or beyond it: {beyond}."
    return Figure(title, chart.markup(), legend, caption)


def _shown(value: float, axis: Axis) -> float:
    return min(axis.high, max(axis.low, value)) if math.isfinite(value) else axis.high


def _table(tried: Sequence[Tried]) -> Grid:
    """Every policy, by loss."""
    columns = (("policy", False), ("became", False), *((head, True) for head in HEADS))
    rows = []
    for one in tried:
        loss = one.loss
        values = (
            loss.documents if loss else None, loss.mean if loss else None, loss.high if loss else None,
            one.changed, one.peak_ratio, one.documents_per_hour,
        )  # fmt: skip
        numbers = [Cell(text, value) for text, value in zip(cells(one), values, strict=True)]
        rows.append([Cell(one.label), Cell(state_text(one)), *numbers])
    return Grid("", columns, rows)
