"""The leader of each PDM-Closed proposal: the nearest track in the corridor of its path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from shapely.geometry.base import BaseGeometry

from maskworld.metrics.pdms.closed_paths import Paths
from maskworld.metrics.pdms.forecast import HOLD, Forecast
from maskworld.metrics.pdms.vehicle import LENGTH, box_corners

TREE_CAPACITY = 10
"""Of the search tree whose order decides between tracks that all overlap the ego box."""


@dataclass(frozen=True)
class LeaderSearch:
    """All that a search needs and that no proposal changes: made once per scene.

    Axis `h` counts forecasts, `k` paths, `n` tracks.
    """

    paths: Paths
    corridors: tuple[BaseGeometry, ...]
    forecast: Forecast
    boxes: np.ndarray
    """Polygons of the tracks, `h n`."""
    is_in_contact: Bool[np.ndarray, " n"]
    """Touches the car at t = 0."""
    along: Float[np.ndarray, "h k n"]
    """Distance of the track's centre along the path if it is a candidate: in the corridor, and
    not in contact at t = 0. -inf if not."""
    may_block: Bool[np.ndarray, " h"]
    """Whether any track is a candidate."""

    def leaders(
        self, tick: int, path_index: Int[np.ndarray, " p"], progress: Float[np.ndarray, " p"]
    ) -> Float[np.ndarray, "p 3"]:
        """Leaders at an even tick: position along the path, speed along it, length at the rear.

        `progress` is how far each proposal was one tick ago. Proposals of a path stand together.
        """
        number = tick // HOLD
        positions, speeds = self.paths.lengths[path_index], np.zeros(len(progress))
        blocked = np.zeros(len(progress), dtype=bool)
        if self.may_block[number]:
            ahead = self.along[number, path_index] > progress[:, None]
            blocked = ahead.any(axis=1)
        if blocked.any():
            rows = np.flatnonzero(blocked)
            poses = self.paths.poses_at(path_index[rows], progress[rows])
            gaps, nearest = self._nearest(number, path_index[rows], poses, ahead[rows])
            positions[rows] = progress[rows] + gaps
            turned = self.forecast.headings[nearest] - poses[:, 2]
            speeds[rows] = self.forecast.speeds[nearest] * np.cos(turned)
        return _shared_records(path_index, blocked, positions, speeds)

    def _nearest(
        self,
        number: int,
        path_index: Int[np.ndarray, " q"],
        poses: Float[np.ndarray, "q 3"],
        ahead: Bool[np.ndarray, "q n"],
    ) -> tuple[Float[np.ndarray, " q"], Int[np.ndarray, " q"]]:
        """Distance from the car's box at each pose to the nearest track ahead, and which it is."""
        row, column = np.nonzero(ahead)
        cars = shapely.polygons(box_corners(poses))
        gaps = np.full(ahead.shape, np.inf)
        gaps[row, column] = shapely.distance(cars[row], self.boxes[number, column])
        nearest = gaps.argmin(axis=1)
        shortest = gaps[np.arange(len(gaps)), nearest]
        for i in np.flatnonzero((gaps == 0).sum(axis=1) > 1).tolist():
            found = self._search_order(number, int(path_index[i]))
            nearest[i] = next(track for track in found if gaps[i, track] == 0)
        return shortest, nearest

    def _search_order(self, number: int, k: int) -> list[int]:
        """Tracks in the order in which the released code's tree of all boxes returns them.

        It matters only for several tracks under the ego box, all at distance 0.
        """
        tree = shapely.STRtree(self.boxes[number], node_capacity=TREE_CAPACITY)
        found: list[int] = tree.query(self.corridors[k]).tolist()
        return found


def prepare_search(
    paths: Paths,
    start: Float[np.ndarray, " k"],
    reach: float,
    forecast: Forecast,
    pose: Float[np.ndarray, " 3"],
) -> LeaderSearch:
    """Finds the candidates of every path and forecast.

    Corridors run from `start` of each path over `reach` m; `pose` is the rear axle at t = 0.
    """
    boxes = shapely.polygons(forecast.corners())
    num_holds, num_tracks = boxes.shape
    is_in_contact = np.asarray(shapely.intersects(shapely.polygons(box_corners(pose)), boxes[0]))
    moves = forecast.speeds > 0
    to_search = np.broadcast_to(~is_in_contact & moves, boxes.shape).copy()
    to_search[0] = ~is_in_contact  # what stands is searched once
    corridors = tuple(paths.corridor(k, float(start[k]), reach) for k in range(len(paths)))
    along = np.full((num_holds, len(paths), num_tracks), -np.inf)
    shapely.prepare(corridors)
    rows, columns = np.nonzero(to_search)
    for k, corridor in enumerate(corridors):
        inside = shapely.intersects(corridor, boxes[rows, columns])
        h, n = rows[inside], columns[inside]
        along[h, k, n] = paths.project(k, forecast.centres[h, n])
    along[:, :, ~moves] = along[:1, :, ~moves]
    return LeaderSearch(
        paths=paths,
        corridors=corridors,
        forecast=forecast,
        boxes=boxes,
        is_in_contact=is_in_contact,
        along=along,
        may_block=along.max(axis=(1, 2), initial=-np.inf) > -np.inf,
    )


def _shared_records(
    path_index: Int[np.ndarray, " p"],
    blocked: Bool[np.ndarray, " p"],
    positions: Float[np.ndarray, " p"],
    speeds: Float[np.ndarray, " p"],
) -> Float[np.ndarray, "p 3"]:
    """Leaders as the released code records them: the proposals of a path share one record.

    A blocked proposal sets position and speed, a free one position and rear; each finds in the
    third field what the one before it left there, the first one 0.
    """
    leaders = np.zeros((len(path_index), 3))
    leaders[:, 0] = positions
    if not blocked.any():
        leaders[:, 2] = LENGTH / 2
        return leaders
    path, speed, rear = -1, 0.0, 0.0
    fields = []
    for own_path, is_blocked, own_speed in zip(
        path_index.tolist(), blocked.tolist(), speeds.tolist()
    ):
        if own_path != path:
            path, speed, rear = own_path, 0.0, 0.0
        if is_blocked:
            speed = own_speed
        else:
            rear = LENGTH / 2
        fields.append((speed, rear))
    leaders[:, 1:] = fields
    return leaders
