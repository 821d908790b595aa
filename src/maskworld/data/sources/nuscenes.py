"""nuScenes from its JSON tables: scenes are episodes, camera pictures frames, ego motion actions.

    DATAROOT/v1.0-trainval/{scene,sample,sample_data,ego_pose,calibrated_sensor,sensor,log}.json
    DATAROOT/{samples,sweeps}/CAM_FRONT/*.jpg
    DATAROOT/can_bus/scene-0001_{pose,route}.json    where the CAN bus expansion is there

Reference: https://www.nuscenes.org/nuscenes#data-format
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.data.cameras import Calibration
from maskworld.data.lerobot_schema import decode_image
from maskworld.data.sources.nuscenes_can import read_route, read_status
from maskworld.data.trajectories import (
    POSE_GAP,
    STATUS_WINDOW,
    UNKNOWN,
    TimedPoses,
    command_from_route,
    headings,
    plan_sample,
    speed_and_yaw_rate,
)
from maskworld.data.windows import ClipIndex
from maskworld.types import PlanSample

CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_LEFT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
SWEEP_FPS, KEYFRAME_FPS = 12.0, 2.0
FRAME_STRIDE = CLIP_STRIDE = 6
"""WorldDreamer's "frame interval of 6": 700 scenes with a start every 6 frames of 12 Hz give about
its 28K clips; clips of every 6th frame are at 2 Hz."""
MAX_OFFSET = 0.1
"""Seconds between the pictures of two cameras that still are one frame: they fire in turn, within
half a lidar turn of 0.05 s (our tolerance)."""
MAX_GAP = 0.5
"""Seconds between frames; a longer pause is a cut (ours)."""


class NuScenesSource:
    """Every scene is one episode; windows never cross scenes, nor gaps in the recording.

    Actions are speed (m/s, along the heading) and yaw rate (rad/s, counter-clockwise) between
    consecutive frames, from the ego poses; row 0 repeats row 1. nuScenes' ego frame is ours: rear
    axle, x forward, y left. The caption is the description of the scene.

    Args:
        root: the data root, or its folder of tables.
        version: the name of the folder of tables; None = the only one there.
        cameras: channels to use as views; the first gives the frame times, the others the picture
            nearest in time.
        sweeps: all pictures (12 Hz), or key frames only (2 Hz).
        scenes: names of scenes to use, in any order, or a text file with one per line (the split
            lists of the devkit); None = all.
        can_bus: folder of the CAN bus expansion, for the velocities, accelerations and commands of
            plan samples; None = `can_bus` below the data root, where there is one. Scenes without
            messages get velocities from their past poses; without a route the command is unknown.

    Raises:
        ValueError: a table is missing or damaged, a token leads nowhere, unknown cameras or scenes.
    """

    name = "nuscenes"
    action_names = ("speed", "yaw_rate")

    def __init__(
        self,
        root: Path | str,
        version: str | None = None,
        *,
        cameras: Sequence[str] = ("CAM_FRONT",),
        sweeps: bool = True,
        scenes: Sequence[str] | Path | None = None,
        can_bus: Path | str | None = None,
    ) -> None:
        self.root, tables = _find_tables(Path(root), version)
        self.can_bus = self.root / "can_bus" if can_bus is None else Path(can_bus)
        if can_bus is not None and not self.can_bus.is_dir():
            raise ValueError(f"Expected the CAN bus expansion at {can_bus}, found no folder there.")
        self.cameras = list(cameras)
        self.fps = SWEEP_FPS if sweeps else KEYFRAME_FPS
        self.num_unmatched = 0
        """Frames left out because another camera has no picture at that time."""
        rows = _camera_rows(tables, self.cameras, sweeps)
        poses = _poses(tables, {row["ego_pose_token"] for group in rows.values() for row in group})
        logs = {log["token"]: log for log in _read_table(tables, "log")}
        self._sensors = {row["token"]: row for row in _read_table(tables, "calibrated_sensor")}
        self._scenes = [
            self._scene(scene, logs.get(scene["log_token"], {}), rows, poses)
            for scene in _chosen_scenes(tables, scenes)
        ]

    @property
    def views(self) -> list[str]:
        """Names of the cameras in lower case: "cam_front"."""
        return [camera.lower() for camera in self.cameras]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._scenes[0].size

    def __len__(self) -> int:
        return len(self._scenes)

    def episode(self, index: int) -> NuScenesEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"nuScenes has {len(self)} scenes here, asked for number {index}.")
        return NuScenesEpisode(self.root, self._scenes[index], self.fps, self.can_bus)

    def calibration(self, index: int) -> dict[str, Calibration]:
        """How the views of a scene see, by their names.

        Raises:
            ValueError: calibrated_sensor.json lacks it; names the camera.
        """
        scene = self._scenes[index]
        return {
            view: _calibration(self._sensors[token], scene.size, f"{view} of {scene.name}")
            for view, token in zip(self.views, scene.sensors, strict=True)
        }

    def windows(
        self, num_frames: int, frame_stride: int = FRAME_STRIDE, clip_stride: int = CLIP_STRIDE
    ) -> ClipIndex:
        """The clips of all scenes; print it to see their number."""
        return ClipIndex(self, num_frames, frame_stride, clip_stride)

    def _scene(
        self,
        scene: Mapping[str, Any],
        log: Mapping[str, Any],
        rows: Mapping[tuple[str, str], list[dict[str, Any]]],
        poses: Mapping[str, tuple[float, float, float]],
    ) -> _Scene:
        first = rows.get((scene["token"], self.cameras[0]), [])
        others = [rows.get((scene["token"], camera), []) for camera in self.cameras[1:]]
        frames = [_matched(row, others) for row in first]
        kept = [(row, files) for row, files in zip(first, frames) if files is not None]
        self.num_unmatched += len(first) - len(kept)
        if not kept:
            raise ValueError(f"Scene {scene['name']} has no frame of all of {self.cameras}.")
        chain = [row for row, _ in kept]
        stamps = np.array([row["timestamp"] for row in chain], dtype=np.int64)
        if (np.diff(stamps) <= 0).any():
            late = chain[int(np.argmin(np.diff(stamps)))]
            raise ValueError(f"Two pictures of one time: {late['filename']}.")
        pose = np.array([poses[row["ego_pose_token"]] for row in chain])
        return _Scene(
            name=scene["name"],
            caption=scene.get("description", ""),
            location=log.get("location", ""),
            files=[files for _, files in kept if files is not None],
            size=(int(chain[0]["height"]), int(chain[0]["width"])),
            segments=_segments(chain, is_sweep=self.fps == SWEEP_FPS),
            actions=speed_and_yaw_rate(stamps / 1e6, pose),
            timestamps=stamps,
            pose=pose,
            sensors=tuple(
                rows[scene["token"], camera][0]["calibrated_sensor_token"]
                for camera in self.cameras
            ),
        )


@dataclass(frozen=True)
class _Scene:
    name: str
    caption: str
    location: str
    files: list[tuple[str, ...]]
    size: tuple[int, int]
    segments: list[tuple[int, int]]
    actions: np.ndarray
    timestamps: np.ndarray
    pose: np.ndarray
    sensors: tuple[str, ...]
    """Token of each camera's calibration."""


class NuScenesEpisode:
    """One scene, about 20 s; pictures are decoded only when read."""

    def __init__(self, root: Path, scene: _Scene, fps: float, can_bus: Path) -> None:
        self._root, self._scene, self.fps, self._can_bus = root, scene, fps, can_bus
        self.num_frames, self.caption = len(scene.files), scene.caption
        self.segments: Sequence[tuple[int, int]] = scene.segments
        self.attributes = {"scene": scene.name, "location": scene.location}
        self.actions: Float[np.ndarray, "t 2"] | None = scene.actions
        self.timestamps = scene.timestamps
        """Microseconds, as recorded: the rate is 12 Hz only on average."""

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n c h w"]:
        """RGB pictures of the cameras at one moment each."""
        frames = [[self._image(file) for file in self._scene.files[i]] for i in indices]
        return rearrange(np.array(frames), "n v h w c -> v n c h w")

    def read_labels(self, indices: Sequence[int]) -> None:
        return None

    @cached_property
    def poses(self) -> TimedPoses:
        """The drive at the stamps of the frames (seconds), with the CAN bus status where it is."""
        status = read_status(self._can_bus, self._scene.name, self.timestamps)
        return TimedPoses(
            time=self.timestamps / 1e6,
            pose=self._scene.pose,
            velocity=None if status is None else status[:, :2],
            acceleration=None if status is None else status[:, 2:],
            name=self._scene.name,
        )

    def plan_at(self, frame: int) -> PlanSample:
        """The plan sample at frame `frame`; its token is `scene-0001@` and the stamp.

        Raises:
            UncutMoment: the scene ends before the last waypoint, pauses, or begins so late that
                there is nothing to fit a velocity to. Of 20 s, the last 4 have no sample.
        """
        coarse = 1 / KEYFRAME_FPS if self.fps == KEYFRAME_FPS else 0.0
        route = self._route
        return plan_sample(
            self.poses,
            float(self.poses.time[frame]),
            max_gap=POSE_GAP + coarse,
            window=STATUS_WINDOW + coarse,
            command=UNKNOWN if route is None else command_from_route(route, self.poses.pose[frame]),
            token=f"{self._scene.name}@{self.timestamps[frame]}",
        )

    @cached_property
    def _route(self) -> Float[np.ndarray, "m 2"] | None:
        return read_route(self._can_bus, self._scene.name)

    def _image(self, file: str) -> np.ndarray:
        path = self._root / file
        if not path.is_file():
            raise ValueError(
                f"{path} of {self._scene.name} is missing: extract the archive with that part of "
                "nuScenes (sweeps and samples are separate), or choose other scenes."
            )
        return decode_image(path.read_bytes(), False, str(path))


def recorded_cameras(root: Path | str, version: str | None = None) -> list[str]:
    """Channels of the cameras that the tables know, those of `CAMERAS` first and in its order.

    Raises:
        ValueError: no tables, or a damaged one.
    """
    _, tables = _find_tables(Path(root), version)
    known = {row["channel"] for row in _read_table(tables, "sensor")}
    return [c for c in CAMERAS if c in known] + sorted(
        c for c in known - set(CAMERAS) if c.startswith("CAM")
    )


def _calibration(row: Mapping[str, Any], size: tuple[int, int], where: str) -> Calibration:
    """nuScenes' camera axes are ours: x right, y down, z forward."""
    try:
        w, x, y, z = (float(value) for value in row["rotation"])
        pose = np.eye(4)
        pose[:3, :3] = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        pose[:3, 3] = row["translation"]
        intrinsics = np.asarray(row["camera_intrinsic"], dtype=np.float64).reshape(3, 3)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected rotation, translation and camera_intrinsic of {where} in "
            f"calibrated_sensor.json, found them missing or misshapen ({error}): extract the "
            "metadata archive of nuScenes again."
        ) from error
    return Calibration(intrinsics, pose, size)


def _find_tables(root: Path, version: str | None) -> tuple[Path, Path]:
    """The data root and its folder of tables."""
    if (root / "scene.json").is_file() and version is None:
        return root.parent, root
    found = sorted(p.parent.name for p in root.glob("*/scene.json"))
    if version is None and len(found) == 1:
        return root, root / found[0]
    if version in found:
        return root, root / str(version)
    raise ValueError(
        f"{root}: expected a folder of nuScenes tables (v1.0-mini, v1.0-trainval) with scene.json, "
        f"found {found or 'none'}: " + ("name the version." if found else "name the data root.")
    )


def _read_table(tables: Path, name: str) -> list[dict[str, Any]]:
    path = tables / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: extract the metadata archive of nuScenes again.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): extract it again.") from error


def _chosen_scenes(tables: Path, scenes: Sequence[str] | Path | None) -> list[dict[str, Any]]:
    table = sorted(_read_table(tables, "scene"), key=lambda scene: scene["name"])
    if scenes is None:
        return table
    if isinstance(scenes, (str, Path)):
        path = Path(scenes)
        if not path.is_file():
            raise ValueError(f"Expected a text file with one scene per line at {path}.")
        scenes = path.read_text(encoding="utf-8").split()
    unknown = sorted(set(scenes) - {scene["name"] for scene in table})
    if unknown or not scenes:
        raise ValueError(
            f"{tables} has no scenes {unknown[:5]}: expected some of its {len(table)}, "
            f"{table[0]['name']} to {table[-1]['name']}."
        )
    return [scene for scene in table if scene["name"] in set(scenes)]


def _camera_rows(
    tables: Path, cameras: Sequence[str], sweeps: bool
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of sample_data by scene token and channel, in time."""
    channels = {row["token"]: row["channel"] for row in _read_table(tables, "sensor")}
    known = sorted(c for c in set(channels.values()) if c.startswith("CAM"))
    unknown = [camera for camera in cameras if camera not in known]
    if unknown or not cameras:
        raise ValueError(f"{tables} has no cameras {unknown}: expected some of {known}.")
    calibrated = {
        row["token"]: channels[row["sensor_token"]]
        for row in _read_table(tables, "calibrated_sensor")
    }
    scene_of = {row["token"]: row["scene_token"] for row in _read_table(tables, "sample")}
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in _read_table(tables, "sample_data"):
        channel = calibrated.get(row["calibrated_sensor_token"])
        if channel in cameras and (sweeps or row["is_key_frame"]):
            if row["sample_token"] not in scene_of:
                raise ValueError(
                    f"{tables}/sample_data.json: row {row['token']} names a sample that "
                    "sample.json lacks: extract the tables of one version."
                )
            rows[scene_of[row["sample_token"]], str(channel)].append(row)
    for group in rows.values():
        group.sort(key=lambda row: row["timestamp"])
    return dict(rows)


def _poses(tables: Path, tokens: set[str]) -> dict[str, tuple[float, float, float]]:
    """x, y (m) and heading (rad) of the wanted ego poses."""
    poses = {}
    for row in _read_table(tables, "ego_pose"):
        if row["token"] in tokens:
            heading = headings(np.array([row["rotation"]], dtype=np.float64))[0]
            poses[row["token"]] = (row["translation"][0], row["translation"][1], float(heading))
    missing = tokens - set(poses)
    if missing:
        raise ValueError(
            f"{tables}/ego_pose.json lacks {len(missing)} poses that sample_data.json names, for "
            f"instance {min(missing)}: extract the tables of one version."
        )
    return poses


def _matched(
    row: Mapping[str, Any], others: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[str, ...] | None:
    """The file of a frame, and of the other cameras' pictures nearest in time; None if one has
    none near enough."""
    files = [row["filename"]]
    for candidates in others:
        if not candidates:
            return None
        nearest = min(candidates, key=lambda other: abs(other["timestamp"] - row["timestamp"]))
        if abs(nearest["timestamp"] - row["timestamp"]) > 1e6 * MAX_OFFSET:
            return None
        files.append(nearest["filename"])
    return tuple(files)


def _segments(chain: Sequence[Mapping[str, Any]], is_sweep: bool) -> list[tuple[int, int]]:
    """Half-open ranges without a gap: the link `next` breaks, or more than MAX_GAP passes (key
    frames are linked over the sweeps between them, so only time tells)."""
    longest = MAX_GAP if is_sweep else MAX_GAP + 1 / KEYFRAME_FPS
    cuts = [0]
    for i, (row, following) in enumerate(pairwise(chain), start=1):
        is_linked = row["next"] == following["token"] or not is_sweep
        if not is_linked or following["timestamp"] - row["timestamp"] > 1e6 * longest:
            cuts.append(i)
    return list(zip(cuts, [*cuts[1:], len(chain)]))
