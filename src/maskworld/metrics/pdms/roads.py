"""The map under the car: which areas hold points and boxes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from maskworld.metrics.pdms.geometry import Outline

LANE_TYPES = ("lane", "lane_connector")
DRIVABLE_TYPES = ("roadblock", "intersection", "drivable", "carpark")
"""Polygons a car may stand on. Lanes do not count: roadblocks cover them."""
POLYGON_TYPES = LANE_TYPES + DRIVABLE_TYPES

Points = Float[np.ndarray, "n 2"]
Inside = Bool[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class RoadMap:
    """Polygons with their types; cut into slabs when a point first comes near."""

    types: Sequence[str]
    on_route: Sequence[bool]
    outlines: Sequence[Float[np.ndarray, "_ 2"]]

    def in_drivable_area(self, points: Points) -> Inside:
        """Inside a roadblock, intersection, car park or other drivable area."""
        return self._inside_any(self._of_type(*DRIVABLE_TYPES), points)

    def in_intersection(self, points: Points) -> Inside:
        """Inside an intersection."""
        return self._inside_any(self._of_type("intersection"), points)

    def in_route_lane(self, points: Points) -> Inside:
        """Inside a lane or lane connector of the route."""
        lanes = self._of_type(*LANE_TYPES)
        return self._inside_any(lanes[np.array(self.on_route, dtype=bool)[lanes]], points)

    def in_multiple_lanes(self, corners: Float[np.ndarray, "n 4 2"]) -> Inside:
        """Whether several lanes hold corners of a box and none holds all four."""
        num_lanes = np.zeros(len(corners), dtype=np.int64)
        in_one_lane = np.zeros(len(corners), dtype=bool)
        points = corners.reshape(-1, 2)
        for i in self._near(self._of_type(*LANE_TYPES), points).tolist():
            holds = self._outline(i).contains(points).reshape(-1, 4)
            num_lanes += holds.any(axis=1)
            in_one_lane |= holds.all(axis=1)
        return (num_lanes > 1) & ~in_one_lane

    def _of_type(self, *types: str) -> Int[np.ndarray, " k"]:
        return np.flatnonzero([kind in types for kind in self.types])

    def _near(self, indices: Int[np.ndarray, " k"], points: Points) -> Int[np.ndarray, " l"]:
        """Those of `indices` whose bounding boxes meet that of the points."""
        if not len(points) or not len(indices):
            return indices[:0]
        low, high = self._bounds
        meets = (low[indices] < points.max(axis=0)) & (high[indices] > points.min(axis=0))
        return indices[meets.all(axis=1)]

    def _inside_any(self, indices: Int[np.ndarray, " k"], points: Points) -> Inside:
        is_inside = np.zeros(len(points), dtype=bool)
        left = np.arange(len(points))
        for i in self._near(indices, points).tolist():
            outside = ~self._outline(i).contains(points[left])
            is_inside[left] = ~outside
            left = left[outside]
            if not left.size:
                break
        return is_inside

    @functools.cached_property
    def _bounds(self) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k 2"]]:
        low, high = ([f(xy, axis=0) for xy in self.outlines] for f in (np.min, np.max))
        return np.array(low), np.array(high)

    @functools.cached_property
    def _cut(self) -> dict[int, Outline]:
        return {}

    def _outline(self, i: int) -> Outline:
        if i not in self._cut:
            self._cut[i] = Outline.of(self.outlines[i])
        return self._cut[i]
