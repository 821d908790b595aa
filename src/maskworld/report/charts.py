"""Line charts as inline SVG: no library, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Number = int | float
Points = Sequence[tuple[Number, Number | None]]

WIDTH, HEIGHT = 520, 270
LEFT, TOP, BOTTOM = 46, 30, 40
LETTER = 6.8
"""Width of a letter of a name, about."""
MAX_POINTS = 240
"""Longer curves are drawn as means of equal bins."""
LABEL_GAP = 15
NUM_COLOURS = 6
"""Classes c0 to c5 of the style sheet; c0 is the emphasised one."""
BAND = "best"
"""Class of a wide pale line under the others, without a name."""


def line_chart(
    description: str,
    curves: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    whole_steps: bool = False,
    looks: Mapping[str, str] | None = None,
) -> str:
    """An SVG with one line per curve, labelled at its end (a single curve may be called "").

    Args:
        description: read out instead of the picture.
        curves: name -> points (x, y); y None leaves a gap.
        x_label: under the axis.
        y_label: above the axis, e.g. its unit.
        whole_steps: mark every point and put ticks at the points' x only.
        looks: name -> classes of the style sheet, "c0" to "c5" and "dashed", or BAND; by default
            c0 (the emphasised one), c1, ...

    Raises:
        ValueError: no finite point in any curve.
    """
    look = {name: f"c{i % NUM_COLOURS}" for i, name in enumerate(curves)} | dict(looks or {})
    drawn = {name: _thinned(points) for name, points in curves.items()}
    frame = _Frame.around(description, list(drawn.values()), [n for n in drawn if look[n] != BAND])
    parts = [*_axes(frame, whole_steps), *_labels(frame, x_label, y_label)]
    # The first curve is drawn last, on top; the band first, under all.
    order = list(drawn)[::-1]
    order.sort(key=lambda name: look[name] != BAND)
    for name in order:
        places = [None if y is None else (frame.x(x), frame.y(y)) for x, y in drawn[name]]
        parts.append(_curve(look[name], places))
        if whole_steps and look[name] != BAND:
            parts += _markers(look[name], places)
    parts += _end_labels(frame, drawn, look)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(description)}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Frame:
    """The rectangle of the data, and where a value lies in it."""

    right: float
    xs: Sequence[Number]
    y_ticks: Sequence[float]
    low: Number
    high: Number

    @classmethod
    def around(cls, description: str, curves: Sequence[Points], names: Sequence[str]) -> _Frame:
        xs = sorted({x for points in curves for x, y in points if y is not None})
        ys = [y for points in curves for _, y in points if y is not None]
        if not ys or not all(map(math.isfinite, [*xs, *ys])):
            raise ValueError(
                f"Expected finite points to draw, found none or NaN in {description!r}."
            )
        ticks = nice_ticks(min(ys), max(ys))
        room = max((LETTER * len(name) for name in names), default=0.0)
        return cls(WIDTH - room - 16, xs, ticks, min(*ticks, *ys), max(*ticks, *ys))

    def x(self, value: Number) -> float:
        span = self.xs[-1] - self.xs[0]
        across = (value - self.xs[0]) / span if span else 0.5
        return LEFT + across * (self.right - LEFT)

    def y(self, value: Number) -> float:
        up = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


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


def _axes(frame: _Frame, whole_steps: bool) -> list[str]:
    parts = []
    for y in frame.y_ticks:
        height = frame.y(y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{frame.right:.1f}" y1="{height:.1f}" '
            f'y2="{height:.1f}"/>'
        )
        parts.append(_text("tick", LEFT - 8, height + 4, tick_text(y), "end"))
    first, last = frame.xs[0], frame.xs[-1]
    ticks: Sequence[Number] = [x for x in nice_ticks(first, last) if first <= x <= last]
    if whole_steps:
        ticks = frame.xs[:: math.ceil(len(frame.xs) / 12)]
    for x in ticks:
        parts.append(_text("tick", frame.x(x), HEIGHT - BOTTOM + 17, tick_text(x), "middle"))
    return parts


def _labels(frame: _Frame, x_label: str, y_label: str) -> list[str]:
    return [
        _text("axis", (LEFT + frame.right) / 2, HEIGHT - 5, x_label, "middle"),
        _text("axis", LEFT - 8, 12, y_label, "end"),
    ]


def _curve(look: str, places: Sequence[tuple[float, float] | None]) -> str:
    """One path; a None lifts the pen."""
    commands, pen_up = [], True
    for place in places:
        if place is not None:
            commands.append(f"{'M' if pen_up else 'L'}{place[0]:.1f} {place[1]:.1f}")
        pen_up = place is None
    return f'<path class="line {look}" d="{" ".join(commands)}"/>'


def _markers(look: str, places: Sequence[tuple[float, float] | None]) -> list[str]:
    radius = 3.2 if look == "c0" else 2.2
    return [
        f'<circle class="dot {look}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius}"/>'
        for place in places
        if place is not None
    ]


def _end_labels(frame: _Frame, drawn: Mapping[str, Points], look: Mapping[str, str]) -> list[str]:
    """Names at the curves' right ends, pushed apart so that none covers another."""
    ends = []
    for name, points in drawn.items():
        last = next((y for _, y in reversed(points) if y is not None), None)
        if name and last is not None and look[name] != BAND:
            ends.append((frame.y(last), name))
    ends.sort()
    heights = [y for y, _ in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + LABEL_GAP)
    ceiling = HEIGHT - BOTTOM + 4.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - LABEL_GAP
    return [
        _text(f"name {look[name]}", frame.right + 9, y + 4, name)
        for y, (_, name) in zip(heights, ends)
    ]
