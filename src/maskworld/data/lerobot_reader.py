"""Reads LeRobotDataset v2.0, v2.1 and v3.0 folders as a Source."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8

from maskworld.data import lerobot_schema as schema
from maskworld.data.cameras import Calibration
from maskworld.data.episodes import Recent
from maskworld.data.lerobot_metadata import (
    damaged,
    open_parquet,
    read_info,
    read_lines,
    read_tables,
)
from maskworld.data.video_files import OpenVideos

_CACHED_EPISODES = 32
STATE = "observation.state"


class LeRobotSource:
    """A LeRobotDataset as a Source; frames are decoded only when read.

    Args:
        root: the dataset's folder.
        views: features to use as cameras, in this order (the part after "observation.images." is
            enough); None = every image or video feature that is neither labels nor depth.
        action_column: where actions are read; a recording with noise on its expert's actions keeps
            what the expert wanted in a column of its own, timed as "action" is.

    Raises:
        ValueError: no dataset, another version, a missing or truncated file, unknown views or
            column, views of different sizes or frame rates.
    """

    def __init__(
        self,
        root: Path | str,
        views: Sequence[str] | None = None,
        action_column: str = "action",
    ) -> None:
        self.root = Path(root)
        self.info = read_info(self.root)
        self.name = self.root.name
        self.fps = float(self.info["fps"])
        self.rows, self.tasks = read_tables(self.root, self.info)
        self.features: dict[str, dict[str, Any]] = self.info["features"]
        self.action_column = action_column
        if action_column != "action" and action_column not in self.features:
            raise ValueError(
                f"{self.name} has no column {action_column!r} of actions: expected one of "
                f"{sorted(self.features)}."
            )
        self.cameras = _cameras(self.root, self.features, views)
        self.label_keys = _label_keys(self.features, self.cameras)
        self.size = _common_size(self.root, self.features, self.cameras)
        _check_rates(self.root, self.features, self.cameras, self.fps)
        self._tables = _FrameTables(self.root)
        self._videos = OpenVideos()

    @property
    def views(self) -> list[str]:
        return [key.removeprefix(schema.CAMERA_PREFIX) for key in self.cameras]

    def calibration(self, index: int) -> dict[str, Calibration]:
        """How the views see, by their names: `info.calibration` of their features, one for all
        episodes.

        Raises:
            ValueError: a camera has none; names it.
        """
        found = {}
        for view, key in zip(self.views, self.cameras, strict=True):
            stored = (self.features[key].get("info") or {}).get(schema.CALIBRATION)
            where = f"camera {view} of {self.name}"
            if stored is None:
                raise ValueError(
                    f"Expected the calibration of {where} in meta/info.json, found none: write "
                    f"`info.{schema.CALIBRATION}` (intrinsics, pose, size) into its feature."
                )
            found[view] = Calibration.from_json(stored, where)
        return found

    @property
    def action_names(self) -> list[str] | None:
        """Names of the action channels; "action_0", ... where the dataset names none."""
        feature = self.features.get(self.action_column)
        if feature is None:
            return None
        names = feature.get("names")
        if isinstance(names, dict):  # v2 writes {"motors": [...]}
            names = next((v for v in names.values() if isinstance(v, list)), None)
        return list(names) if names else [f"action_{i}" for i in range(feature["shape"][0])]

    @property
    def label_names(self) -> list[str] | None:
        infos = [self.features[key].get("info") or {} for key in self.label_keys]
        return infos[0].get("label_names") if infos else None

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """The dataset's own statistics per feature (`mean`, `std`, `min`, `max`, `count`, ...)."""
        path = self.root / "meta/stats.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        from maskworld.data.lerobot_tables import merge_statistics

        stats = [row["stats"] for row in read_lines(self.root / "meta/episodes_stats.jsonl")]
        return {key: merge_statistics([s[key] for s in stats]) for key in stats[0]}

    def __len__(self) -> int:
        return len(self.rows)

    def episode(self, index: int) -> LeRobotEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"{self.name} has {len(self)} episodes, asked for number {index}.")
        return LeRobotEpisode(self, self.rows[index])

    def data_path(self, row: Mapping[str, Any]) -> Path:
        return self.root / self.info["data_path"].format(**self._place(row, "data"))

    def video_path(self, row: Mapping[str, Any], key: str) -> Path:
        place = self._place(row, f"videos/{key}")
        return self.root / self.info["video_path"].format(video_key=key, **place)

    def _place(self, row: Mapping[str, Any], part: str) -> dict[str, int]:
        if self.info["codebase_version"] == "v3.0":
            chunk, file = row[f"{part}/chunk_index"], row[f"{part}/file_index"]
            return {"chunk_index": chunk, "file_index": file}
        number = row["episode_index"]
        return {"episode_chunk": number // self.info["chunks_size"], "episode_index": number}


class LeRobotEpisode:
    """One episode of a LeRobotSource."""

    def __init__(self, source: LeRobotSource, row: Mapping[str, Any]) -> None:
        self._source, self._row = source, row
        self._actions: np.ndarray | None = None
        self.index = int(row["episode_index"])
        self.num_frames = int(row["length"])
        self.fps = source.fps
        self.caption = str(row["tasks"][0]) if row.get("tasks") else ""
        stored = row.get(schema.SEGMENTS) or [(0, self.num_frames)]
        self.segments: Sequence[tuple[int, int]] = [(int(a), int(b)) for a, b in stored]
        self.attributes: dict[str, Any] = json.loads(row.get(schema.ATTRIBUTES) or "{}")

    @property
    def actions(self) -> Float[np.ndarray, "t a"] | None:
        """Row t is the step into frame t; read from the file when first asked for.

        LeRobot's own row t is the step *from* frame t: unless the dataset says otherwise (ours
        do), rows are moved by one, and the first row, which nobody recorded, repeats the second.
        """
        if self._actions is None:
            self._actions = self._read_actions()
        return self._actions

    @actions.setter
    def actions(self, values: Float[np.ndarray, "t a"] | None) -> None:
        self._actions = values

    def _read_actions(self) -> np.ndarray | None:
        features, column = self._source.features, self._source.action_column
        if column not in features:
            return None
        actions = self.extra(column).reshape(self.num_frames, -1).astype(np.float32)
        info = features.get("action", features[column]).get("info") or {}
        if info.get("timing") == schema.STEP_INTO_FRAME:
            return actions
        return np.concatenate([actions[:1], actions[:-1]])

    @property
    def state(self) -> Float[np.ndarray, "t s"] | None:
        """A robot's proprioception at every frame, "observation.state"; None without."""
        if STATE not in self._source.features:
            return None
        return self.extra(STATE).reshape(self.num_frames, -1).astype(np.float32)

    def extra(self, name: str) -> Shaped[np.ndarray, "t ..."]:
        """A column of numbers as stored, for instance "observation.state"."""
        feature = self._source.features.get(name)
        if feature is None or feature["dtype"] in ("image", "video"):
            known = [k for k, f in self._source.features.items() if f["dtype"] != "video"]
            raise ValueError(
                f"{self._source.name} has no column {name!r}: expected one of {known}."
            )
        return schema.from_column(self._column(name), list(feature["shape"]))

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n c h w"]:
        """RGB frames of every view."""
        views = [self._read_camera(key, indices) for key in self._source.cameras]
        return rearrange(np.stack(views), "v n h w c -> v n c h w")

    def read_labels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n h w"] | None:
        """Class maps of every view, None where the dataset has none."""
        keys = self._source.label_keys
        return np.stack([self._read_images(k, indices, True) for k in keys]) if keys else None

    def _read_camera(self, key: str, indices: Sequence[int]) -> np.ndarray:
        if self._source.features[key]["dtype"] == "image":
            return self._read_images(key, indices, False)
        self._check(indices)
        path = self._source.video_path(self._row, key)
        if not path.is_file():
            raise ValueError(
                f"{self._source.name}: the video {path} of episode {self.index} is missing. "
                "Copy the folder `videos` of the dataset too (git-lfs leaves pointers only)."
            )
        start = float(self._row.get(f"videos/{key}/from_timestamp", 0.0))
        times = [start + i / self.fps for i in indices]
        frames = self._source._videos.open(path).read_times(times, tolerance=0.5 / self.fps)
        height, width = self._source.size  # 4:2:0 video pads odd sides by one pixel
        return frames[:, :height, :width]

    def _read_images(self, key: str, indices: Sequence[int], is_label: bool) -> np.ndarray:
        self._check(indices)
        column = self._column(key)
        images = []
        for i in indices:
            where = f"{self._source.name}, {key} of frame {i} of episode {self.index}"
            images.append(schema.decode_image(column[i]["bytes"].as_buffer(), is_label, where))
        return np.stack(images)

    def _check(self, indices: Sequence[int]) -> None:
        wrong = [i for i in indices if not 0 <= i < self.num_frames]
        if wrong:
            raise ValueError(
                f"Episode {self.index} of {self._source.name} has {self.num_frames} frames, "
                f"asked for frame {wrong[0]}."
            )

    def _column(self, name: str) -> Any:
        path = self._source.data_path(self._row)
        column = self._source._tables.column(path, self.index, name)
        if len(column) != self.num_frames:
            raise ValueError(
                f"{path} holds {len(column)} rows of episode {self.index}, its metadata promise "
                f"{self.num_frames}: the dataset is incomplete, copy it again."
            )
        return column


class _FrameTables:
    """Columns of single episodes out of parquet files that hold many; the latest are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._files: Recent[Path, tuple[Any, np.ndarray]] = Recent(16)
        self._columns: Recent[tuple[Path, int, str], Any] = Recent(_CACHED_EPISODES)

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_root"])  # type: ignore[misc]

    def column(self, path: Path, episode: int, name: str) -> Any:
        if self._pid != os.getpid():  # open files are not shared with forked workers
            self._forget()
        return self._columns.get((path, episode, name), lambda: self._read(path, episode, name))

    def _read(self, path: Path, episode: int, name: str) -> Any:
        import pyarrow as pa

        file, episodes = self._files.get(path, lambda: self._open(path))
        rows = np.flatnonzero(episodes == episode)
        if len(rows) == 0:
            raise ValueError(f"{path} has no rows of episode {episode}: copy the dataset again.")
        if name not in file.schema_arrow.names:
            raise ValueError(
                f"{path} has no column {name!r}, though meta/info.json names it: "
                f"expected one of {file.schema_arrow.names}."
            )
        start, stop = int(rows[0]), int(rows[-1]) + 1
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        ends = np.cumsum(counts)
        groups = [i for i, end in enumerate(ends) if end > start and end - counts[i] < stop]
        offset = int(ends[groups[0]] - counts[groups[0]])
        try:
            table = file.read_row_groups(groups, columns=[name], use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(damaged(path, error)) from error
        return table.column(name).slice(start - offset, stop - start).combine_chunks()

    def _open(self, path: Path) -> tuple[Any, np.ndarray]:
        import pyarrow.parquet as pq

        file = open_parquet(path)
        assert isinstance(file, pq.ParquetFile)
        column = file.read(columns=["episode_index"], use_threads=False)["episode_index"]
        return file, schema.from_column(column).reshape(-1)


def _is_camera(key: str, feature: Mapping[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    is_depth = bool(info.get("video.is_depth_map") or info.get("is_depth_map"))
    return feature["dtype"] in ("image", "video") and not is_depth and not _is_labels(key, feature)


def _is_labels(key: str, feature: Mapping[str, Any]) -> bool:
    info = feature.get("info") or {}
    return bool(info.get("is_label_map")) or key.startswith(schema.LABELS_PREFIX)


def _cameras(
    root: Path, features: Mapping[str, Mapping[str, Any]], views: Sequence[str] | None
) -> list[str]:
    known = [key for key, feature in features.items() if _is_camera(key, feature)]
    if not known:
        raise ValueError(f"{root} has no camera: expected a feature of dtype image or video.")
    if views is None:
        return known
    by_name = {key.removeprefix(schema.CAMERA_PREFIX): key for key in known} | {k: k for k in known}
    unknown = [view for view in views if view not in by_name]
    if unknown or not views:
        raise ValueError(f"{root} has no views {unknown}: expected some of {known}.")
    return [by_name[view] for view in views]


def _label_keys(features: Mapping[str, Mapping[str, Any]], cameras: Sequence[str]) -> list[str]:
    """The label feature of each camera, in the same order; empty if a camera has none."""
    labels = {k for k, f in features.items() if f["dtype"] == "image" and _is_labels(k, f)}
    wanted = [schema.LABELS_PREFIX + c.removeprefix(schema.CAMERA_PREFIX) for c in cameras]
    return wanted if labels.issuperset(wanted) else []


def _common_size(
    root: Path, features: Mapping[str, Mapping[str, Any]], cameras: Sequence[str]
) -> tuple[int, int]:
    sizes = {}
    for key in cameras:
        shape = features[key]["shape"]
        is_channels_first = shape[0] in (1, 3) and shape[-1] not in (1, 3)
        sizes[key] = (shape[1], shape[2]) if is_channels_first else (shape[0], shape[1])
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"{root}: cameras of different sizes {sizes} cannot be views of one clip. "
            "Choose cameras of one size: views=[...]."
        )
    return sizes[cameras[0]]


def _check_rates(
    root: Path, features: Mapping[str, Mapping[str, Any]], cameras: Sequence[str], fps: float
) -> None:
    """Raises ValueError for a camera whose metadata promise another rate than the dataset's."""
    for key in cameras:
        info = features[key].get("info") or features[key].get("video_info") or {}
        rate = info.get("video.fps")
        if rate is not None and abs(float(rate) - fps) > 0.01 * fps:
            raise ValueError(
                f"{root}: expected every camera at {fps:g} frames per second, found {key} at "
                f"{float(rate):g}: bring the videos to one rate and export the dataset again, or "
                "leave that camera out."
            )


def recorded_cameras(root: Path | str) -> list[str]:
    """Names of the cameras of a dataset, without opening its episodes.

    Raises:
        ValueError: no dataset, or no camera.
    """
    info = read_info(Path(root))
    keys = _cameras(Path(root), info["features"], None)
    return [key.removeprefix(schema.CAMERA_PREFIX) for key in keys]
