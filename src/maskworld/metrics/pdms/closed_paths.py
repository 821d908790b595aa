"""Paths of PDM-Closed: the centreline, the same 1 m to the right and to the left.

Distances along a path are sums of its chords; poses are linear in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from jaxtyping import Float, Int
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from maskworld.metrics.pdms.geometry import Line
from maskworld.metrics.pdms.vehicle import WIDTH

OFFSETS = (0.0, 1.0, -1.0)
"""m to the right of the centreline, in the order in which proposals are numbered."""
FIRST_DISTANCE = 1e-5
"""m; poses are never read nearer to a path's start than this."""

PROJECTED_AT_ONCE = 64
"""Points: arrays of these times a path's chords stay in the cache. Ours."""


@dataclass(frozen=True, eq=False)
class Paths:
    """Lines of equally many poses x, y, heading in the global frame; headings are unwrapped."""

    poses: Float[np.ndarray, "k m 3"]

    def __len__(self) -> int:
        return len(self.poses)

    @cached_property
    def lines(self) -> list[shapely.LineString]:
        """The chords of each path."""
        lines: list[shapely.LineString] = shapely.linestrings(self.poses[..., :2]).tolist()
        return lines

    @cached_property
    def starts(self) -> Float[np.ndarray, "k m"]:
        """Distance along its path of each pose, m."""
        steps = np.diff(self.poses[..., :2], axis=1)
        lengths = np.cumsum(np.hypot(steps[..., 0], steps[..., 1]), axis=1)
        return np.pad(lengths, ((0, 0), (1, 0)))

    @property
    def lengths(self) -> Float[np.ndarray, " k"]:
        """m."""
        return self.starts[:, -1]

    def start(self, point: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " k"]:
        """Distance along each path of its point nearest to the car at `point`.

        By shapely, as released: where the car stands on a vertex of a curved centreline, two points
        of a path beside it are as near up to rounding, and all depends on which is taken.
        """
        return np.asarray(shapely.line_locate_point(self.lines, shapely.Point(point)))

    def project(self, k: int, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        """The same for many points and path k, several times faster and up to such ties."""
        line = Line.of(self.poses[k, :, :2])
        parts = range(0, len(points), PROJECTED_AT_ONCE)
        found = [line.project(points[i : i + PROJECTED_AT_ONCE]) for i in parts]
        return np.concatenate(found) if found else np.zeros(0)

    def poses_at(
        self, index: Int[np.ndarray, "*n"], along: Float[np.ndarray, "*n"]
    ) -> Float[np.ndarray, "*n 3"]:
        """Poses at distances along the paths of `index`, kept within their ends."""
        lengths, num_poses = self.lengths, self.starts.shape[1]
        inside = np.clip(along, FIRST_DISTANCE, lengths[index])
        # One search for all paths: each has its own range of keys.
        keys, apart = self._keys
        found = keys.searchsorted(inside + apart * index, side="right") - 1
        left = np.clip(found, num_poses * index, num_poses * index + num_poses - 2)
        starts, poses = self.starts.reshape(-1), self.poses.reshape(-1, 3)
        chord = starts[left + 1] - starts[left]
        share = (inside - starts[left]) / np.where(chord > 0, chord, 1.0)
        return poses[left] + share[..., None] * (poses[left + 1] - poses[left])

    @cached_property
    def _keys(self) -> tuple[Float[np.ndarray, " km"], float]:
        apart = float(self.lengths.max()) + 1.0
        return (self.starts + apart * np.arange(len(self))[:, None]).reshape(-1), apart

    def corridor(self, k: int, start: float, reach: float) -> BaseGeometry:
        """What the car sweeps on path k from `start` over `reach` m: the path's vertices, widened.

        The line ends at the last vertices inside the interval, not at its ends, so a coarse path
        has a short corridor. With fewer than two vertices inside, the exact piece is taken.
        """
        inside = (self.starts[k] >= start) & (self.starts[k] <= start + reach)
        if inside.sum() >= 2:
            piece = shapely.LineString(self.poses[k, inside, :2])
        else:
            piece = substring(self.lines[k], start, start + reach)
        return piece.buffer(WIDTH / 2, cap_style="square")


def offset_paths(centreline: Float[np.ndarray, "m 3"]) -> Paths:
    """The centreline and its copies, each point moved along the normal of its own heading.

    Raises:
        ValueError: fewer than two points, or a path without length.
    """
    if len(centreline) < 2:
        raise ValueError(
            f"PDM-Closed follows the centreline and needs at least 2 points, found "
            f"{len(centreline)}: give the scene its route, or an explicit reference."
        )
    headings = np.unwrap(centreline[:, 2])
    # Not (-sin, cos), which is the same but for the last bit: see `Paths.start`.
    left = np.stack([np.cos(headings + np.pi / 2), np.sin(headings + np.pi / 2)], axis=1)
    points = centreline[:, :2] - np.array(OFFSETS)[:, None, None] * left  # k m 2
    turned = np.broadcast_to(headings[:, None], (len(OFFSETS), len(headings), 1))
    paths = Paths(np.concatenate([points, turned], axis=2))
    if not (paths.lengths > 0).all():
        offset = OFFSETS[int(paths.lengths.argmin())]
        raise ValueError(
            f"Expected a centreline of some length, found all {len(centreline)} points in one "
            f"place after an offset of {offset} m: give the scene its route."
        )
    return paths
