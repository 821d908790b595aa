"""Paths of PDM-Closed: the centreline, the same 1 m to the right and to the left.

Distances along a path are sums of its chords; poses are linear in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from jaxtyping import Float
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from maskworld.metrics.pdms.vehicle import WIDTH

OFFSETS = (0.0, 1.0, -1.0)
"""m to the right of the centreline, in the order in which proposals are numbered."""
FIRST_DISTANCE = 1e-5
"""m; poses are never read nearer to a path's start than this."""


@dataclass(frozen=True)
class Path:
    """A line of poses x, y, heading in the global frame; headings are unwrapped."""

    poses: Float[np.ndarray, "m 3"]

    @cached_property
    def line(self) -> shapely.LineString:
        """The chords."""
        return shapely.LineString(self.poses[:, :2])

    @cached_property
    def starts(self) -> Float[np.ndarray, " m"]:
        """Distance along the path of each pose, m."""
        steps = np.diff(self.poses[:, :2], axis=0)
        return np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])

    @property
    def length(self) -> float:
        """m."""
        return float(self.starts[-1])

    def project(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        """Distance along the path of its point nearest to each of `points`.

        By shapely, as released: where the car stands on a vertex of a curved centreline, two points
        of a path beside it are as near up to rounding, and the start depends on which is taken.
        """
        return np.asarray(shapely.line_locate_point(self.line, shapely.points(points)))

    def poses_at(self, along: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 3"]:
        """Poses at distances along the path, kept within its ends."""
        inside = np.clip(along, FIRST_DISTANCE, self.length)
        columns = [np.interp(inside, self.starts, column) for column in self.poses.T]
        return np.stack(columns, axis=-1)

    def corridor(self, start: float, reach: float) -> BaseGeometry:
        """What the car sweeps from `start` over `reach` m: the path's own vertices, widened.

        The line ends at the last vertices inside the interval, not at its ends, so a coarse path
        has a short corridor. With fewer than two vertices inside, the exact piece is taken.
        """
        inside = (self.starts >= start) & (self.starts <= start + reach)
        if inside.sum() >= 2:
            piece = shapely.LineString(self.poses[inside, :2])
        else:
            piece = substring(self.line, start, start + reach)
        return piece.buffer(WIDTH / 2, cap_style="square")


def offset_paths(centreline: Float[np.ndarray, "m 3"]) -> tuple[Path, ...]:
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
    # Not (-sin, cos), which is the same but for the last bit: see `Path.project`.
    left = np.stack([np.cos(headings + np.pi / 2), np.sin(headings + np.pi / 2)], axis=1)
    paths = []
    for offset in OFFSETS:
        path = Path(np.column_stack([centreline[:, :2] - offset * left, headings]))
        if path.length == 0:
            raise ValueError(
                f"Expected a centreline of some length, found all {len(centreline)} points in one "
                f"place after an offset of {offset} m: give the scene its route."
            )
        paths.append(path)
    return tuple(paths)
