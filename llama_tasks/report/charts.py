"""Geometry of the drawings: numbers in, coordinates and labels out; the template turns them into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_tasks.report.text import is_interval, is_number
from llama_tasks.report.words import WORDS, metric_words

Point = tuple[float, float]

_MOST_POINTS = 300  # more cannot be told apart on a panel of this width


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in drawing units."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A value with its interval, in drawing units; `low == high` where there is no interval."""

    name: str
    y: float
    low: float
    at: float
    high: float


@dataclass(frozen=True)
class IntervalPlot:
    """The scores of one metric side by side, on the scale that all metrics up to 100 share."""

    width: int
    height: int
    ticks: list[Tick]
    marks: list[Mark]


@dataclass(frozen=True)
class LinePlot:
    """A curve over steps: `faint` as measured, `line` its running mean (or itself), `dots` where points are few."""

    title: str
    chinese: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    faint: str
    line: str
    dots: list[Point]
    best: float | None


@dataclass(frozen=True)
class SquareTick:
    """A share on both axes of a square drawing."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Bin:
    """The rows of one bin of confidence: a bar as high as the share of right ones, the darker the more rows."""

    x: float
    y: float
    width: float
    height: float
    opacity: float
    label: str


@dataclass(frozen=True)
class ReliabilityPlot:
    """A reliability diagram (DeGroot and Fienberg 1983): accuracy over confidence, both 0 to 1."""

    title: str
    size: int
    left: int
    right: int
    top: int
    bottom: int
    ticks: list[SquareTick]
    bars: list[Bin]


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) whose first and last enclose `low` and `high`.

    >>> nice_ticks(3, 47)
    [0.0, 20.0, 40.0, 60.0]
    """
    if low == high:
        pad = abs(low) / 2 or 1.0
        low, high = low - pad if low < 0 else max(0.0, low - pad), high + pad
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def interval_plots(scores: Sequence[dict[str, Any]], width: int = 260) -> list[IntervalPlot]:
    """One plot a score, on one scale, so that rows can be compared by eye; a metric that passes 100 has a scale of its own."""
    edges: dict[str, list[float]] = {}
    for score in scores:
        own = [edge for name in _systems(score) for edge in _edges(score[name])]
        edges.setdefault(score["metric"], []).extend(own)
    shared = [edge for own in edges.values() if max(own, default=0) <= 100 for edge in own]
    scales = {metric: own if max(own, default=0) > 100 else shared for metric, own in edges.items()}
    return [_interval_plot(score, scales[score["metric"]], width) for score in scores]


def _interval_plot(score: dict[str, Any], edges: Sequence[float], width: int) -> IntervalPlot:
    ticks = nice_ticks(min(edges), max(edges)) if edges else [0.0, 100.0]
    margin = 12

    def place(value: float) -> float:
        return round(margin + (width - 2 * margin) * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

    axis = [Tick(place(tick), f"{tick:g}") for tick in ticks]
    drawn = [name for name in _systems(score) if _edges(score[name])]
    marks = [_mark(name, 12.0 + 16 * row, score[name], place) for row, name in enumerate(drawn)]
    return IntervalPlot(width, 24 + 16 * max(1, len(drawn)), axis, marks)


def training_plots(training: dict[str, Any]) -> list[LinePlot]:
    """Loss, each metric on the validation rows, and the learning rate, over the same steps."""
    steps, evaluations = training.get("steps") or [], training.get("evaluations") or []
    curves = [(WORDS["training loss"], _points(steps, "loss"))]
    for metric in dict.fromkeys(row.get("metric") for row in evaluations):
        own = [row for row in evaluations if row.get("metric") == metric]
        english, chinese = metric_words(metric)
        curves.append(((f"validation {english}", f"验证集 {chinese}"), _points(own, "value")))
    curves.append((WORDS["learning rate"], _points(steps, "learning_rate")))
    drawn = [(titles, points) for titles, points in curves if points]
    last_step = max((points[-1][0] for _, points in drawn), default=0)
    best = training.get("best_step") if is_number(training.get("best_step")) else None
    return [_line_plot(titles, points, last_step, best) for titles, points in drawn]


def reliability_plot(bins: Sequence[dict[str, Any]]) -> ReliabilityPlot:
    """The drawing of `metrics.reliability`'s bins."""
    left, top, right, bottom, size = 44, 12, 288, 256, 300
    side, most = right - left, max((one["n"] for one in bins), default=1)

    def place(share: float) -> float:
        return round(side * share, 1)

    bars = [
        Bin(
            left + place(one["low"]), round(bottom - max(place(one["accuracy"]), 1.0), 1), place(one["high"] - one["low"]),
            max(place(one["accuracy"]), 1.0), round(0.25 + 0.75 * one["n"] / most, 2),
            f"{one['confidence']:.2f} → {one['accuracy']:.2f} ({one['n']:,})",
        )
        for one in bins
    ]  # fmt: skip
    ticks = [SquareTick(left + place(x), bottom - place(x), f"{x:g}") for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    title = "; ".join(bar.label for bar in bars)
    return ReliabilityPlot(title, size, left, right, top, bottom, ticks, bars)


def _systems(score: dict[str, Any]) -> list[str]:
    return [name for name in ("base", "adapter") if name in score]


def _edges(value: dict[str, Any]) -> list[float]:
    if not is_number(value["value"]):
        return []
    return [value["value"], *(value["interval"] if is_interval(value["interval"]) else [])]


def _mark(name: str, y: float, value: dict[str, Any], place: Any) -> Mark:
    edges = _edges(value)
    return Mark(name, y, place(min(edges)), place(edges[0]), place(max(edges)))


def _points(rows: Sequence[dict[str, Any]], key: str) -> list[Point]:
    known = [row for row in rows if is_number(row.get("step")) and is_number(row.get(key))]
    return sorted((float(row["step"]), float(row[key])) for row in known)


def _line_plot(titles: tuple[str, str], points: list[Point], last_step: float, best: float | None) -> LinePlot:
    left, top, right, bottom = 48, 14, 348, 154  # of a drawing 360 x 190
    values = [value for _, value in points]
    ticks = nice_ticks(min(values), max(values))
    steps = [step for step in nice_ticks(0, last_step) if step <= last_step] if last_step else [0.0]

    def x(step: float) -> float:
        return round(left + (right - left) * step / (last_step or 1), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

    thinned = _thin(points)
    smooth = _running_mean(thinned) if titles == WORDS["training loss"] else thinned
    return LinePlot(
        *titles, 360, 190, left, right, top, bottom,
        x_ticks=[Tick(x(step), f"{step:,.0f}") for step in steps],
        y_ticks=[Tick(y(value), _label(value)) for value in ticks],
        faint=_path([(x(s), y(v)) for s, v in thinned]) if smooth is not thinned else "",
        line=_path([(x(s), y(v)) for s, v in smooth]),
        dots=[(x(s), y(v)) for s, v in points] if len(points) <= 20 else [],
        best=x(best) if best is not None and 0 <= best <= last_step else None,
    )  # fmt: skip


def _label(value: float) -> str:
    """`0.5`, `1.5e-4`: short enough for the margin."""
    if value == 0 or 0.01 <= abs(value) < 1e5:
        return f"{value:g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _thin(points: list[Point]) -> list[Point]:
    """Means over equal runs of points, so that a long training draws as quickly as a short one."""
    run = math.ceil(len(points) / _MOST_POINTS)
    return [_mean(points[at : at + run]) for at in range(0, len(points), run)]


def _running_mean(points: list[Point]) -> list[Point]:
    """Centred mean over a tenth of the curve; short curves as they are."""
    reach = len(points) // 20
    if reach < 2:
        return points
    means = [_mean(points[max(0, at - reach) : at + reach + 1])[1] for at in range(len(points))]
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]


def _mean(points: list[Point]) -> Point:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
