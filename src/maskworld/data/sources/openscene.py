"""OpenScene / NAVSIM logs from an export in JSON lines; pickles are never loaded.

    LOGS/<log name>.jsonl          one line per frame, 2 Hz
    SENSORS/<data_path>            pictures, as in OpenScene's sensor_blobs/<split>

OpenScene ships its logs as pickles, and loading a pickle runs whatever code it holds. So the logs
are exported once, in the environment in which NAVSIM loads them anyway:

    python examples/export_openscene.py navsim_logs/mini exported/mini

What a line holds, by the names of the log (established from OpenScene's
`process_data/create_openscene_metadata.py` and NAVSIM v1.1's `common/dataclasses.py`):

- `token`, `timestamp` (microseconds), `log_name`, `scene_token`, `map_location`
- `ego2global_translation` (x, y, z) and `ego2global_rotation` (w, x, y, z) of the rear axle
- `ego_dynamic_state`: vx, vy, ax, ay in the ego frame
- `driving_command`: one-hot of left, straight, right, unknown; from the route and the map
- `cams`: by channel, {"data_path": ...}
- `roadblock_ids`: NAVSIM leaves out frames with none

Waypoints are interpolated at now + 0.5 s, ..., + 4 s; NAVSIM takes the n-th frame after now, which
is the same up to the jitter of the stamps. Lines may hold more fields; they are not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskworld.data.episodes import Recent
from maskworld.data.sources.drives import DriveEpisode
from maskworld.data.trajectories import TimedPoses, headings

FPS = 2.0
MAX_GAP = 0.75
"""Seconds between frames of 2 Hz that are no gap (ours)."""
_NUMBERS = {
    "ego2global_translation": 3,
    "ego2global_rotation": 4,
    "ego_dynamic_state": 4,
    "driving_command": 4,
}


class OpenSceneSource:
    """Every exported log is one episode of 2 Hz, with a plan sample at every frame that has one.

    Args:
        logs: folder of `*.jsonl`, or one such file.
        sensors: folder that the `data_path` of a camera is below; needed to read frames only.
        cameras: channels to use as views.
        names: names of logs to use (a split); None = all.

    Raises:
        ValueError: no logs, unknown names, or a damaged line; names file and line.
    """

    name = "openscene"
    action_names = ("speed", "yaw_rate")

    def __init__(
        self,
        logs: Path | str,
        sensors: Path | str | None = None,
        *,
        cameras: Sequence[str] = ("CAM_F0",),
        names: Sequence[str] | None = None,
    ) -> None:
        self.cameras, self.fps = list(cameras), FPS
        self._sensors = Path(sensors) if sensors is not None else Path()
        self._paths = _find_logs(Path(logs), names)
        self._recent: Recent[Path, DriveEpisode] = Recent(size=4)
        if not cameras:
            raise ValueError("Expected a camera or more, found none: CAM_F0 is the front camera.")

    @property
    def views(self) -> list[str]:
        """Names of the cameras in lower case: "cam_f0"."""
        return [camera.lower() for camera in self.cameras]

    def __len__(self) -> int:
        return len(self._paths)

    def episode(self, index: int) -> DriveEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"There are {len(self)} logs here, asked for number {index}.")
        path = self._paths[index]
        return self._recent.get(path, lambda: self._read(path))

    def _read(self, path: Path) -> DriveEpisode:
        rows = _read_log(path, self.cameras)
        state = np.array([row["ego_dynamic_state"] for row in rows], dtype=np.float64)
        xy = np.array([row["ego2global_translation"][:2] for row in rows], dtype=np.float64)
        quaternion = np.array([row["ego2global_rotation"] for row in rows], dtype=np.float64)
        stamps = np.array([row["timestamp"] for row in rows], dtype=np.int64)
        return DriveEpisode(
            root=self._sensors,
            files=[tuple(row["cams"][c]["data_path"] for c in self.cameras) for row in rows],
            timestamps=stamps,
            poses=TimedPoses(
                time=stamps / 1e6,
                pose=np.column_stack([xy, headings(quaternion)]),
                velocity=state[:, :2],
                acceleration=state[:, 2:],
                name=str(path),
            ),
            fps=FPS,
            max_cut=MAX_GAP,
            max_gap=MAX_GAP,
            commands=[int(np.argmax(row["driving_command"])) for row in rows],
            tokens=[row["token"] for row in rows],
            attributes={"log": path.stem, "location": str(rows[0].get("map_location", ""))},
        )


def _find_logs(logs: Path, names: Sequence[str] | None) -> list[Path]:
    paths = [logs] if logs.is_file() else sorted(logs.glob("*.jsonl"))
    if logs.suffix == ".pkl" or (not paths and any(logs.glob("*.pkl"))):
        raise ValueError(
            f"{logs} holds pickles, which are never loaded (they may run any code): export them in "
            "your NAVSIM environment with `python examples/export_openscene.py LOGS OUT`."
        )
    unknown = sorted(set(names or []) - {path.stem for path in paths})
    if unknown or not paths:
        raise ValueError(
            f"{logs}: expected logs {unknown or '*.jsonl'}, found {len(paths)} logs: export them "
            "with `python examples/export_openscene.py LOGS OUT`."
        )
    return [path for path in paths if names is None or path.stem in set(names)]


def _read_log(path: Path, cameras: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_checked(line, cameras, f"{path}, line {number}"))
    if len(rows) < 2:
        raise ValueError(f"{path}: expected 2 frames or more, found {len(rows)}: export it again.")
    return rows


def _checked(line: str, cameras: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}): export the log again.") from error
    if not isinstance(row, dict) or not isinstance(row.get("timestamp"), int):
        raise ValueError(f"{where}: expected an object with an integer timestamp (microseconds).")
    for name, count in _NUMBERS.items():
        numbers = row.get(name)
        good = isinstance(numbers, list) and len(numbers) == count
        if not good or not all(isinstance(n, (int, float)) for n in numbers or []):
            raise ValueError(f"{where}: expected {count} numbers as {name}, found {numbers!r}.")
    if sorted(row["driving_command"]) != [0, 0, 0, 1]:
        raise ValueError(
            f"{where}: expected a one-hot driving_command (left, straight, right, unknown), found "
            f"{row['driving_command']}."
        )
    if not isinstance(row.get("token"), str):
        raise ValueError(f"{where}: expected a string as token, found {row.get('token')!r}.")
    cams = row.get("cams")
    missing = [c for c in cameras if not isinstance(_path_of(cams, c), str)]
    if missing:
        found = sorted(cams) if isinstance(cams, Mapping) else cams
        raise ValueError(f"{where}: expected a data_path of cameras {missing}, found {found}.")
    return row


def _path_of(cams: Any, camera: str) -> Any:
    camera_row = cams.get(camera) if isinstance(cams, Mapping) else None
    return camera_row.get("data_path") if isinstance(camera_row, Mapping) else None
