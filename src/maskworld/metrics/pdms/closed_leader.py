"""The leader of each PDM-Closed proposal: the nearest track in the corridor of its path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from shapely.geometry.base import BaseGeometry

from maskworld.metrics.pdms.closed_paths import Path
from maskworld.metrics.pdms.forecast import HOLD, Forecast
from maskworld.metrics.pdms.vehicle import LENGTH, box_corners

TREE_CAPACITY = 10
"""Of the search tree whose order decides between tracks that all overlap the ego box."""


@dataclass(frozen=True)
class LeaderSearch:
    """All that a search needs and that no proposal changes: made once per scene.

    Axis `h` counts forecasts, `k` paths, `n` tracks.
    """

    paths: tuple[Path, ...]
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

        `progress` is how far each proposal was one tick ago.
        """
        number = tick // HOLD
        blocked = np.zeros(len(progress), dtype=bool)
        positions, speeds = np.zeros(len(progress)), np.zeros(len(progress))
        if self.may_block[number]:
            ahead = self.along[number, path_index] > progress[:, None]
            blocked = ahead.any(axis=1)
            for k in np.unique(path_index[blocked]).tolist():
                rows = np.flatnonzero(blocked & (path_index == k))
                poses = self.paths[k].poses_at(progress[rows])
                gaps, nearest = self._nearest(number, k, poses, ahead[rows])
                positions[rows] = progress[rows] + gaps
                turned = self.forecast.headings[nearest] - poses[:, 2]
                speeds[rows] = self.forecast.speeds[nearest] * np.cos(turned)
        lengths = np.array([path.length for path in self.paths])[path_index]
        return _shared_records(path_index, blocked, np.where(blocked, positions, lengths), speeds)

    def _nearest(
        self, number: int, k: int, poses: Float[np.ndarray, "q 3"], ahead: Bool[np.ndarray, "q n"]
    ) -> tuple[Float[np.ndarray, " q"], Int[np.ndarray, " q"]]:
        """Distance from the ego box at each pose to the nearest track ahead, and which it is."""
        columns = np.flatnonzero(ahead.any(axis=0))
        egos = shapely.polygons(box_corners(poses))
        gaps = shapely.distance(egos[:, None], self.boxes[number, columns])
        gaps = np.where(ahead[:, columns], gaps, np.inf)
        if ((gaps == 0).sum(axis=1) > 1).any():
            found = self._search_order(number, k)
            order = np.argsort([found.index(column) for column in columns.tolist()])
            columns, gaps = columns[order], gaps[:, order]
        nearest = gaps.argmin(axis=1)
        return gaps[np.arange(len(gaps)), nearest], columns[nearest]

    def _search_order(self, number: int, k: int) -> list[int]:
        """Tracks in the order in which the released code's tree of all boxes returns them.

        It matters only for several tracks under the ego box, all at distance 0.
        """
        tree = shapely.STRtree(self.boxes[number], node_capacity=TREE_CAPACITY)
        found: list[int] = tree.query(self.corridors[k]).tolist()
        return found


def prepare_search(
    paths: tuple[Path, ...],
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
    corridors = tuple(
        path.corridor(float(first), reach) for path, first in zip(paths, start, strict=True)
    )
    along = np.full((num_holds, len(paths), num_tracks), -np.inf)
    for k, (path, corridor) in enumerate(zip(paths, corridors, strict=True)):
        shapely.prepare(corridor)
        h, n = np.nonzero(to_search)
        inside = shapely.intersects(corridor, boxes[h, n])
        h, n = h[inside], n[inside]
        along[h, k, n] = path.project(forecast.centres[h, n])
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
    for i in range(len(path_index)):
        if path_index[i] != path:
            path, speed, rear = path_index[i], 0.0, 0.0
        if blocked[i]:
            speed = speeds[i]
        else:
            rear = LENGTH / 2
        leaders[i, 1:] = speed, rear
    return leaders
