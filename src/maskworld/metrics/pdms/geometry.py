"""Plane geometry on arrays: boxes that touch, points inside outlines, distance along a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Boxes(NamedTuple):
    """Oriented boxes: centres, headings (rad) and half sizes (m), of shapes that broadcast."""

    x: Float[np.ndarray, "*#b"]
    y: Float[np.ndarray, "*#b"]
    heading: Float[np.ndarray, "*#b"]
    half_length: Float[np.ndarray, "*#b"] | float
    half_width: Float[np.ndarray, "*#b"] | float


def boxes_touch(a: Boxes, b: Boxes) -> Bool[np.ndarray, "*b"]:
    """Whether boxes overlap or touch: no side of either separates them. NaN touches nothing.

    A box of half length 0 is the segment across its heading.
    """
    dx, dy = b.x - a.x, b.y - a.y
    cos_a, sin_a, cos_b, sin_b = (f(box.heading) for box in (a, b) for f in (np.cos, np.sin))
    cos, sin = np.abs(cos_a * cos_b + sin_a * sin_b), np.abs(cos_a * sin_b - sin_a * cos_b)
    length_a, width_a, length_b, width_b = a.half_length, a.half_width, b.half_length, b.half_width
    touch = np.abs(dx * cos_a + dy * sin_a) <= length_a + length_b * cos + width_b * sin
    touch &= np.abs(dy * cos_a - dx * sin_a) <= width_a + length_b * sin + width_b * cos
    touch &= np.abs(dx * cos_b + dy * sin_b) <= length_b + length_a * cos + width_a * sin
    touch &= np.abs(dy * cos_b - dx * sin_b) <= width_b + length_a * sin + width_a * cos
    return touch


@dataclass(frozen=True, eq=False)
class Outline:
    """A simple polygon cut into slabs between its vertices, so that a point meets few edges.

    The slabs lie across the axis (x or y) on which fewer edges share a slab. Within one slab no
    edge ends and none cross; rows are edges, columns slabs, and absent edges lie at infinity.
    """

    low: Float[np.ndarray, " 2"]
    high: Float[np.ndarray, " 2"]
    axis: int
    """0: slabs across x, edges are functions of x; 1: the other way."""
    breaks: Float[np.ndarray, " b"]
    start: Float[np.ndarray, "e s"]
    """Height of an edge where its slab begins."""
    slope: Float[np.ndarray, "e s"]

    @classmethod
    def of(cls, xy: Float[np.ndarray, "n 2"]) -> Outline:
        """The slabs of a polygon without self-intersections, open or closed."""
        tables = [_slabs(xy[:, axis], xy[:, 1 - axis]) for axis in (0, 1)]
        axis = int(len(tables[1][1]) < len(tables[0][1]))
        return cls(xy.min(axis=0), xy.max(axis=0), axis, *tables[axis])

    def contains(self, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Which points lie strictly inside; the outline itself is outside."""
        across, height = points[:, self.axis], points[:, 1 - self.axis]
        slab = self.breaks.searchsorted(across, side="right") - 1
        is_inside = (slab >= 0) & (slab < self.start.shape[1])
        slab = np.where(is_inside, slab, 0)
        is_inside &= self._is_between(slab, across, height)
        # Where two slabs meet, an upright edge may stand: inside is what both call so.
        on_break = np.flatnonzero(is_inside & (self.breaks[slab] == across))
        if on_break.size:
            before = slab[on_break] - 1
            inside_too = self._is_between(np.maximum(before, 0), across[on_break], height[on_break])
            is_inside[on_break] = inside_too & (before >= 0)
        return is_inside

    def _is_between(
        self,
        slab: Int[np.ndarray, " n"],
        across: Float[np.ndarray, " n"],
        height: Float[np.ndarray, " n"],
    ) -> Bool[np.ndarray, " n"]:
        """Whether an odd number of the slab's edges lies below, and none at, each point."""
        into = across - self.breaks.take(slab)
        is_odd = np.zeros(len(slab), dtype=bool)
        on_edge = np.zeros(len(slab), dtype=bool)
        for start, slope in zip(self.start, self.slope):
            above = height - (start.take(slab) + slope.take(slab) * into)
            is_odd ^= above > 0
            on_edge |= above == 0
        return is_odd & ~on_edge


def _slabs(
    across: Float[np.ndarray, " n"], height: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, "e s"], Float[np.ndarray, "e s"]]:
    """Breaks, and the edges over each slab in rows of equal number."""
    breaks = np.unique(across)
    ends = np.stack([across, np.roll(across, -1)])
    heights = np.stack([height, np.roll(height, -1)])
    order = ends.argsort(axis=0)
    (left, right), (first, last) = (np.take_along_axis(v, order, 0) for v in (ends, heights))
    spans = (left[:, None] <= breaks[:-1]) & (right[:, None] >= breaks[1:])  # n s
    spans &= (left < right)[:, None]
    edge, slab = np.nonzero(spans)
    rank = spans.cumsum(axis=0)[edge, slab] - 1
    num_edges, num_slabs = int(rank.max()) + 1, len(breaks) - 1
    start, slope = np.full((num_edges, num_slabs), np.inf), np.zeros((num_edges, num_slabs))
    rise = (last - first)[edge] / (right - left)[edge]
    start[rank, slab] = first[edge] + rise * (breaks[slab] - left[edge])
    slope[rank, slab] = rise
    return breaks, start, slope


@dataclass(frozen=True, eq=False)
class Line:
    """A polyline on which points are projected."""

    points: Float[np.ndarray, "n 2"]
    directions: Float[np.ndarray, "m 2"]
    """Unit vectors; 0 for a segment without length."""
    starts: Float[np.ndarray, " n"]
    """Distance along the line to each point."""

    @classmethod
    def of(cls, points: Float[np.ndarray, "n 2"]) -> Line:
        """The line through `points`, two or more."""
        steps = np.diff(points, axis=0)
        lengths = np.hypot(steps[:, 0], steps[:, 1])
        directions = steps / np.where(lengths > 0, lengths, 1.0)[:, None]
        return cls(points, directions, np.concatenate([[0.0], np.cumsum(lengths)]))

    def project(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        """Distance along the line (m) of the nearest point on it; of several, the first."""
        dx = points[:, 0, None] - self.points[:-1, 0]
        dy = points[:, 1, None] - self.points[:-1, 1]
        ux, uy = self.directions.T
        along = np.clip(dx * ux + dy * uy, 0.0, np.diff(self.starts))
        nearest = ((dx - along * ux) ** 2 + (dy - along * uy) ** 2).argmin(axis=1)
        return self.starts[nearest] + along[np.arange(len(points)), nearest]
