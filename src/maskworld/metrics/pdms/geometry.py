"""Plane geometry on arrays: boxes that touch, points inside outlines, distance along a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Boxes(NamedTuple):
    """Oriented boxes: centres, cosine and sine of the heading, half sizes; shapes broadcast."""

    x: Float[np.ndarray, "*#b"]
    y: Float[np.ndarray, "*#b"]
    cos: Float[np.ndarray, "*#b"]
    sin: Float[np.ndarray, "*#b"]
    half_length: Float[np.ndarray, "*#b"] | float
    half_width: Float[np.ndarray, "*#b"] | float


def boxes_touch(a: Boxes, b: Boxes) -> Bool[np.ndarray, "*b"]:
    """Whether boxes overlap or touch: no side of either separates them. NaN touches nothing.

    A box of half length 0 is the segment across its heading.
    """
    dx, dy = b.x - a.x, b.y - a.y
    cos, sin = np.abs(a.cos * b.cos + a.sin * b.sin), np.abs(a.cos * b.sin - a.sin * b.cos)
    length_a, width_a, length_b, width_b = a.half_length, a.half_width, b.half_length, b.half_width
    touch = np.abs(dx * a.cos + dy * a.sin) <= length_a + length_b * cos + width_b * sin
    touch &= np.abs(dy * a.cos - dx * a.sin) <= width_a + length_b * sin + width_b * cos
    touch &= np.abs(dx * b.cos + dy * b.sin) <= length_b + length_a * cos + width_a * sin
    touch &= np.abs(dy * b.cos - dx * b.sin) <= width_b + length_a * sin + width_a * cos
    return touch


@dataclass(frozen=True, eq=False)
class Outline:
    """A simple polygon cut into slabs between its vertices, so that a point meets few edges.

    The slabs lie across the axis (x or y) along which it is longer, because a road has few edges
    beside each other. Within one slab no edge ends and none cross; rows are edges, columns slabs,
    and absent edges lie at infinity.
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
        low, high = xy.min(axis=0), xy.max(axis=0)
        axis = int((high - low).argmax())
        return cls(low, high, axis, *_slabs(xy[:, axis], xy[:, 1 - axis]))

    def contains(
        self, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Which points lie strictly inside; the outline itself is outside."""
        across, height = (x, y) if self.axis == 0 else (y, x)
        num_slabs = self.start.shape[1]
        slab = self.breaks.searchsorted(across, side="right") - 1
        is_inside = (slab >= 0) & (slab < num_slabs)
        is_inside &= self._is_between(slab, across, height)
        # Where two slabs meet, an upright edge may stand: inside is what both call so.
        on_break = np.flatnonzero(is_inside & (self.breaks.take(slab, mode="clip") == across))
        if on_break.size:
            before = slab[on_break] - 1
            inside_too = self._is_between(before, across[on_break], height[on_break])
            is_inside[on_break] = inside_too & (before >= 0)
        return is_inside

    def _is_between(
        self,
        slab: Int[np.ndarray, " n"],
        across: Float[np.ndarray, " n"],
        height: Float[np.ndarray, " n"],
    ) -> Bool[np.ndarray, " n"]:
        """Whether an odd number of the slab's edges lies below, and none at, each point. Numbers
        beyond the slabs are read as the nearest one's."""
        into = across - self.breaks.take(slab, mode="clip")
        is_odd = np.zeros(len(slab), dtype=bool)
        on_edge = np.zeros(len(slab), dtype=bool)
        for start, slope in zip(self.start, self.slope):
            above = height - (start.take(slab, mode="clip") + slope.take(slab, mode="clip") * into)
            is_odd ^= above > 0
            on_edge |= above == 0
        return is_odd & ~on_edge


def _slabs(
    across: Float[np.ndarray, " n"], height: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, "e s"], Float[np.ndarray, "e s"]]:
    """Breaks, and the edges over each slab in rows of equal number."""
    breaks, place = np.unique(across, return_inverse=True)
    ends = np.stack([place, np.roll(place, -1)])
    heights = np.stack([height, np.roll(height, -1)])
    order = ends.argsort(axis=0)
    (left, right), (first, last) = (np.take_along_axis(v, order, 0) for v in (ends, heights))
    # Every edge once for each slab it spans, slab by slab; upright edges span none.
    spans = right - left
    edge = np.arange(len(spans)).repeat(spans)
    slab = np.arange(len(edge)) + (left - np.cumsum(spans) + spans).repeat(spans)
    by_slab = slab.argsort(kind="stable")
    edge, slab = edge[by_slab], slab[by_slab]
    rank = np.arange(len(edge)) - slab.searchsorted(slab)
    start = np.full((int(rank.max()) + 1, len(breaks) - 1), np.inf)
    slope = np.zeros_like(start)
    rise = (last - first)[edge] / (breaks[right] - breaks[left])[edge]
    start[rank, slab] = first[edge] + rise * (breaks[slab] - breaks[left[edge]])
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
