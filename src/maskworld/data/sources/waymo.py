"""Waymo Open Dataset, perception, version 2: segments of 20 s at 10 Hz from the Parquet files.

    ROOT/camera_image/<segment>.parquet     JPEG pictures of five cameras
    ROOT/vehicle_pose/<segment>.parquet     world_from_vehicle, 4 x 4, row by row; optional

Columns are `key.frame_timestamp_micros`, `key.camera_name` (1 front, 2 front left, 3 front right, 4
side left, 5 side right), `[CameraImageComponent].image` and
`[VehiclePoseComponent].world_from_vehicle.transform`, as the published schema names them
(waymo_open_dataset/v2/perception). Rows may come in any order. The vehicle frame has x forward, y
left, z up; its origin is taken for the rear axle, which the schema does not say.

Pictures of the chosen cameras are held in memory for the two segments read last (about 60 MB per
camera and segment), still as JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, UInt8

from maskworld.data.episodes import Recent
from maskworld.data.lerobot_schema import decode_image
from maskworld.data.trajectories import TimedPoses, speed_and_yaw_rate

FPS = 10.0
MAX_CUT = 0.3
"""Seconds between pictures of 10 Hz; a longer pause is a cut (ours)."""
CAMERAS = {"FRONT": 1, "FRONT_LEFT": 2, "FRONT_RIGHT": 3, "SIDE_LEFT": 4, "SIDE_RIGHT": 5}
TIME, CAMERA = "key.frame_timestamp_micros", "key.camera_name"
IMAGE = "[CameraImageComponent].image"
TRANSFORM = "[VehiclePoseComponent].world_from_vehicle.transform"


class WaymoSource:
    """Every segment is one episode of 10 Hz.

    Args:
        root: folder with `camera_image/`, for instance `.../validation`.
        cameras: to use as views, in this order.

    Raises:
        ValueError: no segments, or an unknown camera.
    """

    name = "waymo"

    def __init__(self, root: Path | str, *, cameras: Sequence[str] = ("FRONT",)) -> None:
        self.root, self.cameras, self.fps = Path(root), list(cameras), FPS
        unknown = [camera for camera in self.cameras if camera not in CAMERAS]
        if unknown or not self.cameras:
            raise ValueError(f"Expected cameras among {list(CAMERAS)}, found {self.cameras}.")
        self._paths = sorted((self.root / "camera_image").glob("*.parquet"))
        if not self._paths:
            raise ValueError(
                f"Expected Waymo segments (version 2) at {self.root / 'camera_image'}/*.parquet, "
                "found none: name the folder of a split that holds camera_image/."
            )
        self._recent: Recent[Path, WaymoEpisode] = Recent(size=2)

    @property
    def views(self) -> list[str]:
        """Names of the cameras in lower case: "front_left"."""
        return [camera.lower() for camera in self.cameras]

    @property
    def action_names(self) -> list[str] | None:
        """None where the split has no vehicle poses."""
        has_poses = (self.root / "vehicle_pose").is_dir()
        return ["speed", "yaw_rate"] if has_poses else None

    def __len__(self) -> int:
        return len(self._paths)

    def segment(self, index: int) -> str:
        """The name of a segment."""
        return self._path(index).stem

    def episode(self, index: int) -> WaymoEpisode:
        """Segment `index`: the moments at which all the cameras have a picture.

        Raises:
            ValueError: no Parquet file, missing columns, or no such moment; names the file.
        """
        path = self._path(index)
        return self._recent.get(path, lambda: self._read(path))

    def _read(self, path: Path) -> WaymoEpisode:
        table = _columns(path, (TIME, CAMERA))
        numbers = [CAMERAS[camera] for camera in self.cameras]
        by_camera = [set(table[TIME][table[CAMERA] == number].tolist()) for number in numbers]
        moments = sorted(set.intersection(*by_camera))
        if not moments:
            raise ValueError(
                f"{path} has no moment with pictures of {self.cameras}: name cameras it has."
            )
        return WaymoEpisode(
            path=path,
            camera_numbers=numbers,
            timestamps=np.array(moments, dtype=np.int64),
            poses_path=self.root / "vehicle_pose" / path.name,
            attributes={"segment": path.stem},
        )

    def _path(self, index: int) -> Path:
        if not 0 <= index < len(self):
            raise ValueError(f"There are {len(self)} segments here, asked for number {index}.")
        return self._paths[index]


@dataclass
class WaymoEpisode:
    """One segment; pictures are decoded only when read."""

    path: Path
    camera_numbers: list[int]
    timestamps: Int[np.ndarray, " n"]
    """Microseconds."""
    poses_path: Path
    fps: float = FPS
    caption: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    num_frames: int = field(init=False)
    segments: Sequence[tuple[int, int]] = field(init=False)
    """Half-open frame ranges without a pause."""

    def __post_init__(self) -> None:
        self.num_frames = len(self.timestamps)
        steps = np.diff(self.timestamps) / 1e6
        cuts = [0, *(np.flatnonzero(steps > MAX_CUT) + 1).tolist(), self.num_frames]
        self.segments = list(pairwise(cuts))

    @cached_property
    def poses(self) -> TimedPoses | None:
        """Where the car was, at every moment of the pose table; None where there is none.

        Raises:
            ValueError: no Parquet file, missing columns, or no 4 x 4 transforms; names the file.
        """
        if not self.poses_path.is_file():
            return None
        table = _columns(self.poses_path, (TIME, TRANSFORM))
        order = np.argsort(table[TIME])
        transforms = [np.asarray(row, dtype=np.float64) for row in table[TRANSFORM]]
        if any(row.shape != (16,) for row in transforms):
            raise ValueError(
                f"{self.poses_path}: expected transforms of 16 numbers, found "
                f"{sorted({row.shape for row in transforms})}."
            )
        world = np.stack(transforms)[order].reshape(-1, 4, 4)
        heading = np.arctan2(world[:, 1, 0], world[:, 0, 0])
        pose = np.column_stack([world[:, 0, 3], world[:, 1, 3], heading])
        return TimedPoses(table[TIME][order] / 1e6, pose, name=str(self.poses_path))

    @cached_property
    def actions(self) -> Float[np.ndarray, "t 2"] | None:
        """Speed (m/s) and yaw rate (rad/s) of the step into each frame; None without poses."""
        if self.poses is None:
            return None
        seconds = self.timestamps / 1e6
        return speed_and_yaw_rate(seconds, self.poses.at(seconds))

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n c h w"]:
        """RGB pictures of the views.

        Raises:
            ValueError: a picture cannot be decoded, or the views differ in size; names the file.
        """
        moments = [int(self.timestamps[i]) for i in indices]
        views = [
            [
                decode_image(self._pictures[moment, number], False, f"{self.path} at {moment}")
                for moment in moments
            ]
            for number in self.camera_numbers
        ]
        sizes = {image.shape for view in views for image in view}
        if len(sizes) > 1:  # the side cameras have fewer rows
            raise ValueError(
                f"{self.path}: expected pictures of one size, found {sorted(sizes)}: read the side "
                "cameras apart from the front ones."
            )
        return rearrange(np.array(views), "v n h w c -> v n c h w")

    def read_labels(self, indices: Sequence[int]) -> None:
        return None

    @cached_property
    def _pictures(self) -> dict[tuple[int, int], bytes]:
        """(moment, camera) -> JPEG."""
        table = _columns(self.path, (TIME, CAMERA, IMAGE), cameras=self.camera_numbers)
        keys = zip(table[TIME].tolist(), table[CAMERA].tolist(), strict=True)
        return dict(zip(keys, table[IMAGE].tolist(), strict=True))


def _columns(
    path: Path, names: Sequence[str], cameras: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """Columns of one file; only rows of `cameras`, if given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        filters: Any = [(CAMERA, "in", list(cameras))] if cameras else None
        table = pq.read_table(path, columns=list(names), filters=filters)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: expected a whole Parquet file of Waymo version 2 with {list(names)}, found "
            f"none ({str(error).splitlines()[0]}): download it again."
        ) from error
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: expected the columns {list(names)}, found none of {missing}.")
    return {name: table[name].to_numpy() for name in names}
