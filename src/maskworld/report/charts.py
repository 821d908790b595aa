"""Line charts as inline SVG: no library, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Number = int | float
Points = Sequence[tuple[Number, Number | None]]
Place = Callable[[Number, Number], tuple[float, float]]
"""Data coordinates to those of the picture."""

WIDTH, HEIGHT = 520, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 112, 30, 40
MAX_POINTS = 240
"""Longer curves are drawn as means of equal bins."""
LABEL_GAP = 15
NUM_COLOURS = 6
"""Classes c0 to c5 of the style sheet; c0 is the emphasised one."""


def line_chart(
    description: str,
    curves: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    whole_steps: bool = False,
) -> str:
    """An SVG with one line per curve, labelled at its end (a single curve may be called "").
    The first curve is the emphasised one.

    Args:
        description: read out instead of the picture.
        curves: name -> points (x, y); y None leaves a gap.
        x_label: under the axis.
        y_label: above the axis, e.g. its unit.
        whole_steps: mark every point and put ticks at the points' x only.

    Raises:
        ValueError: no finite point in any curve.
    """
    drawn = {name: _thinned(points) for name, points in curves.items()}
    xs = [x for points in drawn.values() for x, y in points if y is not None]
    ys = [y for points in drawn.values() for _, y in points if y is not None]
    if not ys or not all(map(math.isfinite, xs + ys)):
        raise ValueError(f"Expected finite points to draw, found none or NaN in {description!r}.")
    y_ticks = nice_ticks(min(ys), max(ys))
    low, high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    x_low, x_high = min(xs), max(xs)

    def place(x: Number, y: Number) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    x_ticks = sorted(set(xs)) if whole_steps else nice_ticks(x_low, x_high)
    if whole_steps and len(x_ticks) > 12:
        x_ticks = x_ticks[:: math.ceil(len(x_ticks) / 12)]
    parts = [*_axes(place, [x for x in x_ticks if x_low <= x <= x_high], y_ticks, low)]
    parts += _labels(x_label, y_label)
    ends: list[tuple[float, str, int]] = []
    for index, (name, points) in reversed(list(enumerate(drawn.items()))):
        parts += _curve(index, [(place(x, y) if y is not None else None) for x, y in points])
        if whole_steps:
            parts += _markers(index, [place(x, y) for x, y in points if y is not None])
        last = next((y for _, y in reversed(points) if y is not None), None)
        if last is not None:
            ends.append((place(x_high, last)[1], name, index))
    parts += _end_labels(ends)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(description)}">{"".join(parts)}</svg>'
    )


def nice_ticks(low: Number, high: Number, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) that enclose the range."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _thinned(points: Points) -> list[tuple[Number, Number | None]]:
    """Means of equal bins once a curve has more than MAX_POINTS points."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / MAX_POINTS)
    thinned: list[tuple[Number, Number | None]] = []
    for start in range(0, len(points), size):
        part = [(x, y) for x, y in points[start : start + size] if y is not None]
        if part:
            x, y = (sum(values) / len(part) for values in zip(*part))
            thinned.append((x, y))
    return thinned


def tick_text(value: Number) -> str:
    """A tick's number without needless digits; thousands as k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("-", "−")


def _text(kind: str, x: Number, y: Number, content: str, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def _axes(
    place: Place, x_ticks: Sequence[Number], y_ticks: Sequence[Number], low: Number
) -> list[str]:
    parts = []
    for y in y_ticks:
        height = place(x_ticks[0], y)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" '
            f'y2="{height:.1f}"/>'
        )
        parts.append(_text("tick", LEFT - 8, height + 4, tick_text(y), "end"))
    for x in x_ticks:
        across, base = place(x, low)
        parts.append(_text("tick", across, base + 17, tick_text(x), "middle"))
    return parts


def _labels(x_label: str, y_label: str) -> list[str]:
    return [
        _text("axis", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label, "middle"),
        _text("axis", LEFT - 8, 12, y_label, "end"),
    ]


def _curve(index: int, points: Sequence[tuple[float, float] | None]) -> list[str]:
    """One path; a None lifts the pen."""
    commands, pen_up = [], True
    for point in points:
        if point is not None:
            commands.append(f"{'M' if pen_up else 'L'}{point[0]:.1f} {point[1]:.1f}")
        pen_up = point is None
    return [f'<path class="line c{index % NUM_COLOURS}" d="{" ".join(commands)}"/>']


def _markers(index: int, points: Sequence[tuple[float, float]]) -> list[str]:
    radius = 3.2 if index == 0 else 2.2
    return [
        f'<circle class="dot c{index % NUM_COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        for x, y in points
    ]


def _end_labels(ends: Sequence[tuple[float, str, int]]) -> list[str]:
    """Names at the curves' right ends, pushed apart so that none covers another."""
    ordered = sorted(ends)
    heights = [y for y, _, _ in ordered]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + LABEL_GAP)
    overflow = max(0.0, heights[-1] - (HEIGHT - BOTTOM + 4)) if heights else 0.0
    for i in reversed(range(len(heights))):
        ceiling = heights[i + 1] - LABEL_GAP if i + 1 < len(heights) else heights[i] - overflow
        heights[i] = min(heights[i], ceiling)
    return [
        _text(f"name c{index % NUM_COLOURS}", WIDTH - RIGHT + 9, y + 4, name)
        for y, (_, name, index) in zip(heights, ordered)
        if name
    ]
