"""Chart: a plot with two axes, drawn as SVG to stand inside a page. Knows nothing of what is plotted.

Every element is made by ElementTree, which escapes what it is given. Colours come from the page, by class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 64, 32, 34, 50
_TICK_CHARS = 8.0  # width of a character, in the units of the drawing


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, and the marks on it as (value, text); `log` where equal steps are equal factors."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`; what lies outside is moved to the end."""
        low, high, value = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return min(1.0, max(0.0, (value - low) / (high - low)))


def linear_axis(
    label: str, low: float, high: float, *, unit: float = 1.0, suffix: str = "", whole: bool = False, marks: int = 6
) -> Axis:
    """An axis of about `marks` round marks, written in multiples of `unit`; only whole ones where asked for."""
    if high <= low:
        high = low + unit
    step = _round_step((high - low) / unit / marks)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / unit / step - 1e-9), math.floor(high / unit / step + 1e-9)
    values = [number * step for number in range(first, last + 1)]
    return Axis(label, low, high, tuple((value * unit, _mark(value) + suffix) for value in values))


def up_to(value: float, unit: float = 1.0, marks: int = 6) -> float:
    """The first round mark at or above `value`, for an axis that starts at zero."""
    step = _round_step(value / unit / marks) * unit if value > 0 else unit
    return math.ceil(value / step - 1e-9) * step or step


def log_axis(label: str, low: float, high: float) -> Axis:
    """An axis over values above zero, marked at 1, 2 and 5 times the powers of ten, or at the powers alone."""
    low, high = low / 1.1, high * 1.1
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    return Axis(label, low, high, tuple((mark, _mark(mark)) for mark in marks if low <= mark <= high), log=True)


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


class Chart:
    """Marks are added in data values; `markup` is the drawing. `title` names it to who cannot see it."""

    def __init__(self, title: str, x: Axis, y: Axis, *, height: int = 300) -> None:
        """An empty plot with its axes; `height` in the units in which every chart is 1000 wide."""
        self._x, self._y, self._height = x, y, height
        self._root = ElementTree.Element("svg", {"viewBox": f"0 0 {_WIDTH} {height}", "role": "img"})
        ElementTree.SubElement(self._root, "title").text = title
        self._draw_axes()

    def bar(self, x: tuple[float, float], y: tuple[float, float], kind: str, tip: str, *, gap: float = 0.0) -> None:
        """A filled rectangle between two values of each axis, `gap` of its width left free."""
        left, right = sorted(map(self._across, x))
        top, bottom = sorted(map(self._down, y))
        inset = (right - left) * gap / 2
        size = {"width": _text(max(0.3, right - left - 2 * inset)), "height": _text(bottom - top)}
        self._add("rect", kind, {"x": _text(left + inset), "y": _text(top), **size}, tip)

    def dot(self, x: float, y: float, kind: str, tip: str) -> None:
        """A small disc."""
        self._add("circle", kind, {"cx": _text(self._across(x)), "cy": _text(self._down(y)), "r": "3"}, tip)

    def line(self, points: Sequence[tuple[float, float]], kind: str, tip: str) -> None:
        """A line through the points."""
        self._add("polyline", kind, {"points": self._points(points)}, tip)

    def band(self, points: Sequence[tuple[float, float, float]], kind: str, tip: str) -> None:
        """The area between two lines, given as (x, lower, upper)."""
        lower = [(x, low) for x, low, _ in points]
        upper = [(x, high) for x, _, high in reversed(points)]
        self._add("polygon", kind, {"points": self._points(lower + upper)}, tip)

    def note(self, x: float, y: float, text: str, *, centred: bool = False) -> None:
        """Words above a point, in the middle or on the side of it where there is room."""
        right = self._across(x) > _WIDTH / 2
        shift, anchor = (0, "middle") if centred else (-8, "end") if right else (8, "start")
        self._label(self._across(x) + shift, self._down(y) - 6, text, anchor)

    def markup(self) -> str:
        """The `svg` element."""
        return ElementTree.tostring(self._root, encoding="unicode")

    def _draw_axes(self) -> None:
        right, bottom = _WIDTH - _RIGHT, self._height - _BOTTOM
        for value, text in self._y.ticks:
            down = _text(self._down(value))
            self._add("line", "grid", {"x1": str(_LEFT), "x2": str(right), "y1": down, "y2": down})
            self._label(_LEFT - 8, self._down(value) + 4, text, "end")
        self._add("line", "axis", {"x1": str(_LEFT), "x2": str(right), "y1": str(bottom), "y2": str(bottom)})
        for value, text in _apart(self._x, right - _LEFT):
            across = _text(self._across(value))
            self._add("line", "axis", {"x1": across, "x2": across, "y1": str(bottom), "y2": str(bottom + 5)})
            self._label(self._across(value), bottom + 20, text, "middle")
        self._label(4, 14, self._y.label, "start", "name")
        self._label(right, self._height - 6, self._x.label, "end", "name")

    def _label(self, x: float, y: float, text: str, anchor: str, kind: str = "tick") -> None:
        place = {"class": kind, "x": _text(x), "y": _text(y), "text-anchor": anchor}
        ElementTree.SubElement(self._root, "text", place).text = text

    def _add(self, shape: str, kind: str, geometry: dict[str, str], tip: str = "") -> None:
        element = ElementTree.SubElement(self._root, shape, {"class": kind, **geometry})
        if tip:
            ElementTree.SubElement(element, "title").text = tip

    def _points(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{_text(self._across(x))},{_text(self._down(y))}" for x, y in points)

    def _across(self, value: float) -> float:
        return _LEFT + self._x.place(value) * (_WIDTH - _LEFT - _RIGHT)

    def _down(self, value: float) -> float:
        return self._height - _BOTTOM - self._y.place(value) * (self._height - _TOP - _BOTTOM)


def stacked_bar(parts: Sequence[tuple[str, float]], total: float) -> str:
    """Parts of `total` in a row, as (kind, value), small enough for the cell of a table that holds the figures too."""
    root = ElementTree.Element("svg", {"class": "cell", "viewBox": "0 0 160 12", "aria-hidden": "true"})
    left = 0.0
    for kind, value in parts:
        width = 160 * value / total if total else 0.0
        ElementTree.SubElement(
            root, "rect", {"class": kind, "x": _text(left), "y": "0", "width": _text(width), "height": "12"}
        )
        left += width
    return ElementTree.tostring(root, encoding="unicode")


def _apart(axis: Axis, width: float) -> Iterator[tuple[float, str]]:
    """The marks whose texts do not touch the one before."""
    end = -math.inf
    for value, text in axis.ticks:
        middle, half = axis.place(value) * width, len(text) * _TICK_CHARS / 2
        if middle - half > end:
            yield value, text
            end = middle + half + _TICK_CHARS


def _mark(value: float) -> str:
    """A round number as it is written beside its mark."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _text(number: float) -> str:
    """A coordinate, to a tenth."""
    return f"{number:.1f}".removesuffix(".0")
