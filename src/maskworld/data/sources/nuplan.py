"""nuPlan logs: poses at 20 Hz and pictures at 10 Hz from the SQLite files.

    LOGS/<log>.db                  lidar_pc, ego_pose, scene, log; image, camera for pictures
    SENSORS/<filename_jpg>         pictures, as in nuPlan's sensor_blobs

A pose is a row of `lidar_pc` with the `ego_pose` that it names: x, y (m, UTM), a quaternion (w, x,
y, z), and vx, vy, ax, ay in the ego frame of the rear axle, at the stamp of the point cloud
(microseconds), as nuPlan's devkit reads them (`nuplan_scenario_queries.py`). Of several lidars the
first is used. Calibrations stand in the files as pickles; those columns are never read.

The command is unknown (3): nuPlan has a route of road blocks, which only the maps can turn into
one. OpenScene's logs have done that: see `sources.openscene`. Files are opened read-only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from maskworld.data.episodes import Recent
from maskworld.data.sources.drives import DriveEpisode
from maskworld.data.trajectories import TimedPoses, headings

PICTURE_FPS = 10.0
MAX_CUT = 0.3
"""Seconds between pictures of 10 Hz; a longer pause is a cut (ours)."""
MAX_OFFSET = 0.05
"""Seconds that the picture of a second camera may be off the first: they fire in turn (ours)."""

_POSES = """
SELECT lp.timestamp, ep.x, ep.y, ep.qw, ep.qx, ep.qy, ep.qz,
       ep.vx, ep.vy, ep.acceleration_x, ep.acceleration_y
FROM lidar_pc AS lp INNER JOIN ego_pose AS ep ON ep.token = lp.ego_pose_token
WHERE lp.lidar_token = (SELECT MIN(lidar_token) FROM lidar_pc)
ORDER BY lp.timestamp
"""
_PICTURES = """
SELECT i.timestamp, i.filename_jpg, i.token
FROM image AS i INNER JOIN camera AS c ON c.token = i.camera_token
WHERE c.channel = ? ORDER BY i.timestamp
"""


class NuPlanSource:
    """Every log is one episode of 10 Hz. `poses(i)` needs no pictures.

    Args:
        logs: folder of `*.db`, or one such file.
        sensors: folder that pictures are below; needed to read frames only.
        cameras: channels to use as views; the first gives the frame times, the others the picture
            nearest in time.

    Raises:
        ValueError: no logs.
    """

    name = "nuplan"
    action_names = ("speed", "yaw_rate")

    def __init__(
        self,
        logs: Path | str,
        sensors: Path | str | None = None,
        *,
        cameras: Sequence[str] = ("CAM_F0",),
    ) -> None:
        self.cameras, self.fps = list(cameras), PICTURE_FPS
        self._sensors = Path(sensors) if sensors is not None else Path()
        self._recent: Recent[Path, DriveEpisode] = Recent(size=4)
        logs = Path(logs)
        self._paths = [logs] if logs.is_file() else sorted(logs.glob("*.db"))
        if not self._paths or not cameras:
            raise ValueError(
                f"{logs}: expected nuPlan logs (*.db) and a camera or more, found "
                f"{len(self._paths)} logs and cameras {list(cameras)}."
            )

    @property
    def views(self) -> list[str]:
        """Names of the cameras in lower case: "cam_f0"."""
        return [camera.lower() for camera in self.cameras]

    def __len__(self) -> int:
        return len(self._paths)

    def poses(self, index: int) -> TimedPoses:
        """The drive of log `index` at 20 Hz, velocities and accelerations as recorded.

        Raises:
            ValueError: no SQLite file, tables or columns missing, or fewer than 2 poses.
        """
        return _read_poses(self._path(index))

    def episode(self, index: int) -> DriveEpisode:
        """Log `index` with its pictures, those that poses span.

        Raises:
            ValueError: as `poses`, or the log has no pictures of all the cameras.
        """
        path = self._path(index)
        return self._recent.get(path, lambda: self._read(path))

    def _read(self, path: Path) -> DriveEpisode:
        poses = _read_poses(path)
        views = [_query(path, _PICTURES, (camera,)) for camera in self.cameras]
        rows = [row for first in views[0] if (row := _matched(first, views[1:]))]
        spanned = [r for r in rows if poses.time[0] <= r[0][0] / 1e6 <= poses.time[-1]]
        if not spanned:
            raise ValueError(
                f"{path} has no pictures of {self.cameras} during its drive: name cameras that it "
                "has, or use `poses`, which needs none."
            )
        log = _query(path, "SELECT location, map_version FROM log LIMIT 1")
        return DriveEpisode(
            root=self._sensors,
            files=[tuple(str(picture[1]) for picture in row) for row in spanned],
            timestamps=np.array([row[0][0] for row in spanned], dtype=np.int64),
            poses=poses,
            fps=PICTURE_FPS,
            max_cut=MAX_CUT,
            tokens=[bytes(row[0][2]).hex() for row in spanned],
            attributes={"log": path.stem, "location": str(log[0][0]) if log else ""},
        )

    def _path(self, index: int) -> Path:
        if not 0 <= index < len(self):
            raise ValueError(f"There are {len(self)} logs here, asked for number {index}.")
        return self._paths[index]


def _query(path: Path, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, values).fetchall()
    except sqlite3.Error as error:
        raise ValueError(
            f"{path} is no nuPlan log ({error}): copy it again, or export it with nuPlan's schema."
        ) from error


def _read_poses(path: Path) -> TimedPoses:
    rows = _query(path, _POSES)
    if len(rows) < 2 or any(value is None for row in rows for value in row):
        empty = next((i for i, row in enumerate(rows) if None in row), None)
        raise ValueError(
            f"{path}: expected 2 poses or more without empty values, found {len(rows)}"
            + (f" and an empty value in pose {empty}" if empty is not None else "")
            + ": copy the log again."
        )
    stamps = np.array([row[0] for row in rows], dtype=np.int64)
    values = np.array([row[1:] for row in rows], dtype=np.float64)
    return TimedPoses(
        time=stamps / 1e6,
        pose=np.column_stack([values[:, :2], headings(values[:, 2:6])]),
        velocity=values[:, 6:8],
        acceleration=values[:, 8:10],
        name=str(path),
    )


def _matched(
    first: tuple[Any, ...], others: Sequence[Sequence[tuple[Any, ...]]]
) -> list[tuple[Any, ...]] | None:
    """A picture and the nearest in time of the other cameras; None if one has none near enough."""
    row = [first]
    for pictures in others:
        nearest = min(pictures, key=lambda p: abs(p[0] - first[0]), default=None)
        if nearest is None or abs(nearest[0] - first[0]) > 1e6 * MAX_OFFSET:
            return None
        row.append(nearest)
    return row
