"""Opens what a user names by a path: a released model, or data of any kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import nn

from maskworld.data import cameras as camera_names
from maskworld.data import lerobot_reader
from maskworld.data.dataset import IMAGE_SUFFIXES, ClipDataset, ImageDataset, ImageFolderSource
from maskworld.data.lerobot import LeRobotSource
from maskworld.data.resampling import ResampledSource
from maskworld.data.sources.comma2k19_video import Comma2k19Source, find_segments
from maskworld.data.sources.frame_folders import FrameFolderSource, frame_folders
from maskworld.data.sources.lerobot_plans import LeRobotDrives, knows_plans
from maskworld.data.sources.libero import LiberoSource
from maskworld.data.sources.mask_videos import ROBOT_MASKS, robot_videos
from maskworld.data.sources.nuplan import NuPlanSource
from maskworld.data.sources.nuscenes import NuScenesSource
from maskworld.data.sources.nuscenes import recorded_cameras as nuscenes_cameras
from maskworld.data.sources.openscene import OpenSceneSource
from maskworld.data.sources.rlbench import LOW_DIM, RLBenchSource
from maskworld.data.sources.stored_masks import MaskedSource, with_masks_beside
from maskworld.data.sources.tar_shards import TarShardStream, find_shards
from maskworld.data.sources.tokens import TokenSource
from maskworld.data.sources.video_folder import SUFFIXES as VIDEO_SUFFIXES
from maskworld.data.sources.video_folder import VideoFolderSource
from maskworld.data.sources.waymo import CAMERAS as WAYMO_CAMERAS
from maskworld.data.sources.waymo import WaymoSource
from maskworld.data.storage import write_json
from maskworld.data.transforms import ResizeCrop
from maskworld.data.windows import ClipIndex
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.nn.release import find_release, read_release_config
from maskworld.recipes import system_types
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.mask_world_model import SAMPLING, MaskWorldModel
from maskworld.systems.maskgwm import MaskGWM
from maskworld.systems.reworld import ReWorld
from maskworld.systems.worlddreamer import WorldDreamer
from maskworld.weights import hub

DECODING_FILE = "generation_config.json"
"""Beside config.json and model.safetensors: how the model is sampled unless the user says."""

Drives = NuScenesSource | NuPlanSource | OpenSceneSource | Comma2k19Source
Robots = LiberoSource | RLBenchSource
Pictures = VideoFolderSource | FrameFolderSource | ImageFolderSource
Source = LeRobotSource | Pictures | TokenSource | Drives | WaymoSource | Robots | MaskedSource
LOG_CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0", "CAM_B0", "CAM_L2", "CAM_R2", "CAM_L1", "CAM_R1")
"""Of nuPlan and OpenScene."""
SENSOR_FOLDERS = ("sensor_blobs", "sensors")
"""Where pictures of nuPlan and OpenScene lie: below the logs, or beside a folder above them."""
if TYPE_CHECKING:
    Dataset = ClipDataset | ImageDataset | TarShardStream
else:  # run-time checks of a torch IterableDataset only warn about torch's own annotations
    Dataset = Any


# --------------------------------------------------------------------------------------- models


S = TypeVar("S", bound=nn.Module)
D = TypeVar("D")


@dataclass(frozen=True)
class Release(Generic[S, D]):
    """A trained model, ready to use."""

    system: S
    """In eval mode, on the CPU."""
    decoding: D
    """How it is sampled: `ParallelDecoding` or `FlowSampling`."""


def load_system(path_or_hub_id: Path | str, *, device: str = "cpu") -> nn.Module:
    """A trained system in eval mode: from a folder, or from the Hugging Face Hub.

    Raises:
        ValueError: nothing there, a damaged file, or a system that is not known.
    """
    types: Any = system_types()
    system: Any = hub.load_release(path_or_hub_id, types, device=device)
    return system


def system_name(path_or_hub_id: Path | str) -> str:
    """Which system a release is of, without loading its weights.

    Raises:
        ValueError: nothing there, or a damaged config.
    """
    return str(read_release_config(find_release(path_or_hub_id))["system"])


def load_release(path_or_hub_id: Path | str) -> Release[Any, Any]:
    """A trained system of any kind and how it is sampled.

    Raises:
        ValueError: as `load_system`, or a damaged generation_config.json.
    """
    system: Any = load_system(path_or_hub_id)
    kind: Any = ParallelDecoding if isinstance(system, WorldDreamer) else FlowSampling
    default: Any = SAMPLING if isinstance(system, MaskWorldModel) else kind()
    path = Path(path_or_hub_id) / DECODING_FILE
    if not path.is_file():  # releases of the Hub have none
        return Release(system, default)
    try:
        return Release(system, config_from_json(kind, json.loads(path.read_text("utf-8"))))
    except ValueError as error:
        raise ValueError(
            f"Expected the decoding settings of the model in {path}, found others ({error}): "
            "copy the model again, or remove the file to decode with the defaults."
        ) from error


def load_worlddreamer(path_or_hub_id: Path | str) -> Release[WorldDreamer, ParallelDecoding]:
    """A trained WorldDreamer.

    Raises:
        ValueError: as `load_release`, or a model of another system.
    """
    release = load_release(path_or_hub_id)
    _check_system(release.system, WorldDreamer.name, path_or_hub_id)
    return release


def load_reworld(path_or_hub_id: Path | str) -> Release[ReWorld, FlowSampling]:
    """A trained ReWorld.

    Raises:
        ValueError: as `load_release`, or a model of another system.
    """
    release = load_release(path_or_hub_id)
    _check_system(release.system, ReWorld.name, path_or_hub_id)
    return release


def load_mask_world_model(path_or_hub_id: Path | str) -> Release[MaskWorldModel, FlowSampling]:
    """A trained Mask World Model.

    Raises:
        ValueError: as `load_release`, or a model of another system.
    """
    release = load_release(path_or_hub_id)
    _check_system(release.system, MaskWorldModel.name, path_or_hub_id)
    return release


def load_maskgwm(path_or_hub_id: Path | str) -> Release[MaskGWM, FlowSampling]:
    """A trained MaskGWM.

    Raises:
        ValueError: as `load_release`, or a model of another system.
    """
    release = load_release(path_or_hub_id)
    _check_system(release.system, MaskGWM.name, path_or_hub_id)
    return release


def _check_system(system: Any, name: str, path: Path | str) -> None:
    if system.name != name:
        raise ValueError(f"Expected a model of {name}, found one of {system.name} in {path}.")


def save_release(system: Any, folder: Path, decoding: ParallelDecoding | FlowSampling) -> None:
    """Writes config.json, model.safetensors and generation_config.json."""
    write_json(folder / DECODING_FILE, config_to_json(decoding))
    system.save_pretrained(folder)


# ----------------------------------------------------------------------------------------- data


def open_source(
    path: Path | str, *, cameras: Sequence[str] | None = None, unknown_actions: bool = False
) -> Source | list[str]:
    """The data at `path`, by what it holds: a LeRobot dataset, nuScenes, a split of Waymo, logs of
    nuPlan (*.db) or OpenScene (*.jsonl), segments of comma2k19, demonstrations of LIBERO (*.hdf5)
    or RLBench, a video or a folder of videos (with mask_<class>.mp4 beside them as masks), folders
    of numbered pictures (OpenDV-2K), a folder of images, a .npy array of tokens or a folder of
    them; for tar shards their names.

    Args:
        cameras: by their plain names (`data/cameras.py`) in this order; None = all of a LeRobot
            dataset, the front one of others.
        unknown_actions: rows of actions beside videos may hold NaN, for "not known".

    Raises:
        ValueError: nothing there, nothing of these, or a camera is missing; says which.
    """
    text, path = str(path), Path(path)
    if text.endswith(".tar") or "://" in text or "{" in text:
        _check_one(cameras, text)
        return find_shards(text)
    if path.is_file() and path.suffix not in (".db", ".jsonl"):
        _check_one(cameras, text)
        return _open_file(path, unknown_actions)
    if not path.exists():
        raise ValueError(f"Expected data at {path}, found nothing: check the path.")
    chosen = None
    if cameras is not None:
        chosen = camera_names.own_names(cameras_at(path), cameras, text)
    views: dict[str, Any] = {"cameras": chosen} if chosen else {}
    if (path / "meta" / "info.json").is_file():
        return LeRobotSource(path, views=chosen)
    if _is_nuscenes(path):
        return NuScenesSource(path, **views)
    if (path / "camera_image").is_dir():
        return WaymoSource(path, **views)
    if _are_logs(path):
        return _open_logs(path, **views)
    if find_segments(path):
        return Comma2k19Source(path)
    if any(path.glob("*.hdf5")):
        return LiberoSource(path)
    return _open_folder(path, unknown_actions)


def cameras_at(path: Path | str) -> list[str]:
    """What the cameras of the recordings at `path` are called there, without opening all of it;
    empty where there is one without a name.

    Raises:
        ValueError: a damaged data set.
    """
    path = Path(path)
    if (path / "meta" / "info.json").is_file():
        return lerobot_reader.recorded_cameras(path)
    if _is_nuscenes(path):
        return nuscenes_cameras(path)
    if (path / "camera_image").is_dir():
        return list(WAYMO_CAMERAS)
    return list(LOG_CAMERAS) if _are_logs(path) else []


def _check_one(cameras: Sequence[str] | None, where: str) -> None:
    if cameras is not None:
        camera_names.own_names([], cameras, where)


def _is_nuscenes(path: Path) -> bool:
    return (path / "scene.json").is_file() or any(path.glob("v1.*/scene.json"))


def _are_logs(path: Path) -> bool:
    if path.is_file():
        return path.suffix in (".db", ".jsonl")
    return any(path.glob("*.db")) or any(path.glob("*.jsonl"))


def _open_file(path: Path, unknown_actions: bool) -> Source:
    if path.suffix in (".npy", ".npz"):
        return TokenSource(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFolderSource(path, unknown_actions=unknown_actions)
    if path.suffix == ".hdf5":
        return LiberoSource(path)
    raise ValueError(
        f"Expected a video ({', '.join(VIDEO_SUFFIXES)}), demonstrations (.hdf5), an array of "
        f"tokens (.npy, .npz) or tar shards (.tar), found the file {path}."
    )


def _open_folder(path: Path, unknown_actions: bool) -> Source | list[str]:
    """A folder that is told by the files below it."""
    files = [p for p in path.rglob("*") if p.is_file()]
    if any(p.name == LOW_DIM for p in files):
        return RLBenchSource(path)
    suffixes = {p.suffix.lower() for p in files}
    if suffixes & set(VIDEO_SUFFIXES):  # first: .npy files beside videos are their actions
        masks = _mask_videos(files)
        if masks:
            return robot_videos(path, masks)
        return VideoFolderSource(path, unknown_actions=unknown_actions)
    if ".tar" in suffixes:
        return find_shards(path)
    if suffixes & set(IMAGE_SUFFIXES):
        return FrameFolderSource(path) if frame_folders(path) else ImageFolderSource(path)
    if suffixes & {".npy", ".npz"}:
        return TokenSource(path)
    raise ValueError(
        f"Expected a LeRobot dataset, videos, images, .npy tokens or .tar shards in the folder "
        f"{path}, found {f'files of {sorted(suffixes)}' if suffixes else 'an empty folder'}."
    )


def open_episodes(path: Path | str) -> Source:
    """The recordings at `path`, with the masks that were made after them where such lie beside
    (`maskworld data segment`).

    Raises:
        ValueError: as `open_source`, or what has no episodes in pixels: tar shards, images, tokens.
    """
    source = open_source(path)
    if isinstance(source, list | TokenSource | ImageFolderSource):
        raise ValueError(f"Expected recordings in pixels, found others in {path}.")
    found: Source = with_masks_beside(source, path)
    return found


def _mask_videos(files: Sequence[Path]) -> dict[str, str]:
    """Class -> its mask video, of videos named mask_<class>; as RoboEngine's example names its two,
    or by their names in order; empty without any."""
    suffixes = set(VIDEO_SUFFIXES)
    names = {p.name for p in files if p.suffix.lower() in suffixes and p.stem.startswith("mask_")}
    if names and names <= set(ROBOT_MASKS.values()):
        return dict(ROBOT_MASKS)
    return {Path(name).stem.removeprefix("mask_"): name for name in sorted(names)}


def _open_logs(logs: Path, **views: Any) -> NuPlanSource | OpenSceneSource:
    """nuPlan or OpenScene, by the kind of the logs; pictures are found beside them."""
    is_nuplan = logs.suffix == ".db" or (logs.is_dir() and any(logs.glob("*.db")))
    folder = logs if logs.is_dir() else logs.parent
    places = [
        place
        for above in (folder, *folder.absolute().parents[:2])
        for name in SENSOR_FOLDERS
        for place in (above / name / folder.name, above / name)
    ]
    sensors = next((place for place in places if place.is_dir()), None)
    if is_nuplan:
        return NuPlanSource(logs, sensors, **views)
    return OpenSceneSource(logs, sensors, **views)


def drives_of(source: Source) -> LeRobotDrives | Drives | None:
    """The same recordings with the poses of the car, from which plans are cut; None without."""
    if isinstance(source, LeRobotSource):
        return LeRobotDrives(source) if knows_plans(source) else None
    return source if isinstance(source, Drives) else None


def stride_to(fps: float, source: Source) -> int:
    """Frames of `source` per frame at about `fps` frames per second, at least 1."""
    return max(1, round(source.episode(0).fps / fps))


def open_dataset(
    source: Source | list[str],
    num_frames: int,
    size: tuple[int, int],
    fps: float,
    *,
    frame_stride: int | None = None,
    clip_stride: int = 1,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    plan_frame: int | None = None,
    unknown_actions: bool = False,
) -> Dataset:
    """Clips of `num_frames` frames (of as many independent images) of one source.

    Recordings with time stamps are resampled to `fps` by them; of others every k-th frame is taken.

    Args:
        size: height and width; larger frames are cut to this shape and scaled.
        fps: frames per second that the clips come near to, unless `frame_stride` says.
        clip_stride: source frames between the starts of two clips.
        rank, world_size: this process among those that share tar shards.
        plan_frame: clips get the plan at this frame of theirs, where the source knows plans.
        unknown_actions: actions may hold NaN, for "not known".

    Raises:
        ValueError: no clip fits, tokens on another grid than `size`, or a recording with time
            stamps that is slower than `fps`.
    """
    if isinstance(source, list):
        return TarShardStream(
            source,
            num_frames=num_frames,
            size=size,
            frame_stride=frame_stride or 1,
            images_per_clip=num_frames,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
    if isinstance(source, ImageFolderSource):
        return ImageDataset(source, num_frames, [ResizeCrop(size)])
    stride = frame_stride or stride_to(fps, source)
    drives = drives_of(source) if plan_frame is not None else None
    episodes: Any = drives or source
    if frame_stride is None and isinstance(source, Drives | WaymoSource):
        episodes, stride = ResampledSource(episodes, fps), 1
        clip_stride = max(1, round(clip_stride * fps / source.fps))
    index = ClipIndex(episodes, num_frames, stride, clip_stride)
    if isinstance(source, TokenSource):
        if source.grid != size:
            raise ValueError(
                f"Expected tokens on a grid of {size}, found {source.grid} in {source.path}."
            )
        return ClipDataset(episodes, index)
    at = plan_frame if drives is not None else None
    return ClipDataset(
        episodes, index, [ResizeCrop(size)], plan_frame=at, unknown_actions=unknown_actions
    )
