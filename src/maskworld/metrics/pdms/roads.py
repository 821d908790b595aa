"""The map under the car: which areas hold points and boxes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from maskworld.metrics.pdms.geometry import Outline

LANE_TYPES = ("lane", "lane_connector")
DRIVABLE_TYPES = ("roadblock", "intersection", "drivable", "carpark")
"""Polygons a car may stand on. Lanes do not count: roadblocks cover them."""
POLYGON_TYPES = LANE_TYPES + DRIVABLE_TYPES

# Ours, by measurement.
MIN_SORTED = 5
"""Polygons from which on points are sorted first."""
NUM_PLACES = 2**15 - 2
"""Places along an axis that are told apart in sorting."""
MAX_PAIRS = 50_000
"""Pairs of polygon and point up to which all are compared with the bounding boxes."""

Points = Float[np.ndarray, "n 2"]
Inside = Bool[np.ndarray, " n"]


@runtime_checkable
class Area(Protocol):
    """A polygon of the map, as `scene.MapPolygon` is."""

    @property
    def type(self) -> str: ...

    @property
    def on_route(self) -> bool: ...

    @property
    def xy(self) -> Float[np.ndarray, "_ 2"]: ...

    @property
    def outline(self) -> Outline:
        """Of `xy`, cut when it is first asked for."""
        ...


@dataclass(frozen=True, eq=False)
class RoadMap:
    """The areas around a car; an outline is cut into slabs when a point first comes near."""

    areas: Sequence[Area]

    def in_drivable_area(self, points: Points) -> Inside:
        """Inside a roadblock, intersection, car park or other drivable area."""
        return self._inside_any(self._drivable, points)

    def in_intersection(self, points: Points) -> Inside:
        """Inside an intersection."""
        return self._inside_any(self._intersections, points)

    def in_route_lane(self, points: Points) -> Inside:
        """Inside a lane or lane connector of the route."""
        return self._inside_any(self._route_lanes, points)

    def in_multiple_lanes(self, corners: Float[np.ndarray, "n 4 2"]) -> Inside:
        """Whether several lanes hold corners of a box and none holds all four."""
        num_lanes = np.zeros(len(corners), dtype=np.int64)
        in_one_lane = np.zeros(len(corners), dtype=bool)
        x, y = np.ascontiguousarray(corners.reshape(-1, 2).T)
        for i in self._near(self._lanes, x, y).tolist():
            holds = self.areas[i].outline.contains(x, y).reshape(-1, 4)
            num_lanes += holds.any(axis=1)
            in_one_lane |= holds.all(axis=1)
        return (num_lanes > 1) & ~in_one_lane

    def _near(
        self,
        indices: Int[np.ndarray, " k"],
        x: Float[np.ndarray, " n"],
        y: Float[np.ndarray, " n"],
    ) -> Int[np.ndarray, " l"]:
        """Those of `indices` whose bounding boxes hold a point; of many points, roughly."""
        if not len(x) or not len(indices):
            return indices[:0]
        low, high = (bounds[indices] for bounds in self._bounds)
        meets = (low < (x.max(), y.max())) & (high > (x.min(), y.min()))
        indices, low, high = (each[meets.all(axis=1)] for each in (indices, low, high))
        if len(indices) * len(x) > MAX_PAIRS:
            return indices
        holds = (low[:, :1] < x) & (x < high[:, :1]) & (low[:, 1:] < y) & (y < high[:, 1:])
        return indices[holds.any(axis=1)]

    def _inside_any(self, indices: Int[np.ndarray, " k"], points: Points) -> Inside:
        x, y = np.ascontiguousarray(points.T)
        is_inside = np.zeros(len(x), dtype=bool)
        indices = self._near(indices, x, y)
        by_place = _sorted_within(x, y, *(bounds[indices] for bounds in self._bounds))
        for i, among in zip(indices.tolist(), by_place):
            left = among[~is_inside.take(among)]
            if not left.size:
                continue
            is_inside[left] = self.areas[i].outline.contains(x.take(left), y.take(left))
        return is_inside

    @functools.cached_property
    def _drivable(self) -> Int[np.ndarray, " k"]:
        return np.flatnonzero([area.type in DRIVABLE_TYPES for area in self.areas])

    @functools.cached_property
    def _intersections(self) -> Int[np.ndarray, " k"]:
        return np.flatnonzero([area.type == "intersection" for area in self.areas])

    @functools.cached_property
    def _lanes(self) -> Int[np.ndarray, " k"]:
        return np.flatnonzero([area.type in LANE_TYPES for area in self.areas])

    @functools.cached_property
    def _route_lanes(self) -> Int[np.ndarray, " k"]:
        return self._lanes[[self.areas[i].on_route for i in self._lanes.tolist()]]

    @functools.cached_property
    def _bounds(self) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k 2"]]:
        outlines = [area.xy for area in self.areas]
        low, high = ([f(xy, axis=0) for xy in outlines] for f in (np.min, np.max))
        return np.array(low), np.array(high)


def _sorted_within(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    low: Float[np.ndarray, "k 2"],
    high: Float[np.ndarray, "k 2"],
) -> list[Int[np.ndarray, " _"]]:
    """For each bounding box the points that may lie in it, sorted first where boxes are many."""
    if len(low) < MIN_SORTED:
        return [np.arange(len(x))] * len(low)
    axis = int(np.ptp(y) > np.ptp(x))
    # Sixteen-bit places: NumPy sorts them by radix. Rounding keeps the order, so no point is lost.
    start, scale = (x, y)[axis].min(), NUM_PLACES / max(np.ptp((x, y)[axis]), 1e-9)
    place, first, last = (
        ((each - start) * scale).clip(-1, NUM_PLACES + 1).astype(np.int16)
        for each in ((x, y)[axis], low[:, axis], high[:, axis])
    )
    order = place.argsort(kind="stable")
    place = place[order]
    first, last = place.searchsorted(first), place.searchsorted(last, side="right")
    return [order[a:b] for a, b in zip(first.tolist(), last.tolist())]
