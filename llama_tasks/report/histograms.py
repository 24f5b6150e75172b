"""Histograms: numbers in, coordinates and labels out; the template turns them into SVG, as with the charts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llama_tasks.report.charts import Tick, nice_ticks

_MOST_BARS = 40


@dataclass(frozen=True)
class Bar:
    """One bar in drawing units; `label` says its range and count."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """How many values fall where; `limit` is where the line of the most allowed stands, if it is on the drawing."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[Bar]
    limit: float | None


def histogram(values: Sequence[int], limit: int | None = None) -> Histogram | None:
    """The distribution of whole numbers of at least 0; None where there are none."""
    if not len(values):
        return None
    array = np.asarray(values)
    left, top, right, bottom = 48, 10, 348, 130  # of a drawing 360 x 164
    ticks = nice_ticks(0, max(float(array.max()), 1.0))
    width = max(1, -(-int(ticks[-1]) // _MOST_BARS))
    edges = np.arange(0, max(-(-int(ticks[-1]) // width), int(array.max()) // width + 1) + 1) * width
    counts, _ = np.histogram(array, bins=edges)
    heights = nice_ticks(0, float(counts.max()), 3)
    end = float(edges[-1])

    def x(value: float) -> float:
        return round(left + (right - left) * value / end, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * value / heights[-1], 1)

    bars = [
        Bar(x(start), y(count), round(max(x(start + width) - x(start) - 0.6, 0.6), 1), round(bottom - y(count), 1),
            _label(int(start), int(start) + width - 1, int(count)))
        for start, count in zip(edges[:-1].tolist(), counts.tolist(), strict=True) if count
    ]  # fmt: skip
    x_ticks = [Tick(x(tick), f"{tick:,.0f}") for tick in ticks if tick <= end]
    y_ticks = [Tick(y(tick), f"{tick:,.0f}") for tick in heights if tick == int(tick)]
    on_it = limit is not None and limit <= end
    return Histogram(
        360, 164, left, right, bottom, x_ticks, y_ticks, bars, x(float(limit)) if on_it and limit else None
    )


def _label(first: int, last: int, count: int) -> str:
    return f"{first:,}: {count:,}" if first == last else f"{first:,} – {last:,}: {count:,}"
