"""Writes LeRobotDataset v3.0 folders, whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8

from maskworld.data import lerobot_schema as schema
from maskworld.data.lerobot_checks import (
    check_columns,
    check_frames,
    check_numbers,
    check_presence,
)
from maskworld.data.lerobot_tables import (
    image_statistics,
    link_dataset,
    load_state,
    merge_statistics,
    write_tables,
)
from maskworld.data.statistics import RunningStatistics
from maskworld.data.storage import atomic_path, write_json
from maskworld.data.video_files import CODECS, VideoEncoder, can_encode

# Up to this many pixels a frame is stored as PNG: 4:2:0 video blurs the colours of thin markings
# and far cars, which are one or two pixels wide at such sizes (choice of ours).
PNG_MAX_PIXELS = 160 * 128
_STATISTICS_FRAMES = 32


class LeRobotWriter:
    """Adds episodes to a new dataset; the folder `root` appears when the block ends without error.

    Args:
        fps: frames per second.
        size: height and width of every frame.
        views: names of the cameras; stored as features "observation.images.<view>".
        action_names: one name per action channel, None = episodes have no actions.
        label_names: class names of the label maps, None = episodes have no labels.
        timing: what an action row is: the step into its frame, or the step from it (LeRobot's
            own, for robots).
        codec: "auto", "png" (lossless, in parquet), or a video codec: "av1", "h264",
            "h264-lossless". "auto" takes png up to 160x128 pixels, where lossy 4:2:0 video erases
            small things, else AV1, or h264 where this PyAV has no AV1 encoder.
        append: extend the dataset at `root`: existing files are linked, not changed.
        overwrite: replace what stands at `root`, at the end.

    Raises:
        ValueError: `root` exists, or differs in features from what is appended.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        fps: float | int,
        size: tuple[int, int],
        views: Sequence[str] = ("front",),
        action_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
        timing: Literal["into_frame", "from_frame"] = "into_frame",
        codec: str = "auto",
        robot_type: str | None = None,
        append: bool = False,
        overwrite: bool = False,
        data_file_mb: float | int = schema.DATA_FILE_MB,
        video_file_mb: float | int = schema.VIDEO_FILE_MB,
    ) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"Expected fps above 0, got {fps}.")
        self.root, self.fps, self.size, self.views = Path(root), fps, size, list(views)
        self.action_names = None if action_names is None else list(action_names)
        self.label_names = None if label_names is None else list(label_names)
        self.timing, self.robot_type = timing, robot_type
        self.codec = choose_codec(codec, size)
        self.append, self.overwrite = append, overwrite
        self._limits = (data_file_mb * 2**20, video_file_mb * 2**20)
        self._extra: dict[str, dict[str, Any]] | None = None
        self._stack = ExitStack()
        self._is_broken = False

    def __enter__(self) -> LeRobotWriter:
        if self.root.exists() and not (self.append or self.overwrite):
            raise ValueError(
                f"{self.root} exists already: choose another folder, or pass append=True to "
                "extend the dataset, overwrite=True to replace it."
            )
        self._folder = self._stack.enter_context(
            atomic_path(self.root, what=f"the dataset {self.root.name}")
        )
        self._folder.mkdir()
        self._episodes: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._statistics: dict[str, RunningStatistics] = {}
        self._images: dict[str, list[dict[str, Any]]] = {}
        self._first_episode = self._num_frames = 0
        self._data_file = self._episodes_file = (0, 0)
        self._video_files = dict.fromkeys(self._video_keys(), (0, 0))
        self._data_writer: Any = None
        self._encoders: dict[str, VideoEncoder] = {}
        if self.append and self.root.exists():
            try:
                self._continue_dataset()
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            with self._stack:
                self._finish()
            return
        with suppress(Exception):  # the error under way matters, not what closing says
            for encoder in self._encoders.values():
                encoder.abort()
            if self._data_writer is not None:
                self._data_writer.close()
        self._stack.__exit__(kind, error, trace)

    def add_episode(
        self,
        *,
        frames: UInt8[np.ndarray, "v t c h w"],
        actions: Float[np.ndarray, "_ a"] | None = None,
        labels: UInt8[np.ndarray, "_ _ _ _"] | None = None,
        caption: str = "",
        segments: Sequence[tuple[int, int]] | None = None,
        extra: Mapping[str, Shaped[np.ndarray, "_ ..."]] | None = None,
        attributes: Mapping[str, str | int | float | bool] | None = None,
    ) -> int:
        """Writes one episode and returns its number. Nothing is written if something is wrong.

        Args:
            frames: RGB of every view.
            actions: row t is the step into frame t, or from it (`timing`).
            labels: class per pixel, `v t h w`.
            caption: becomes the LeRobot task of the episode.
            segments: half-open frame ranges without a scene cut, None = no cut.
            extra: further columns, one row per frame, the same names and shapes in all episodes.
            attributes: facts of the whole episode (its world, its seed, the season).
        """
        number = self._first_episode + len(self._episodes)
        where = f"Episode {number}"
        check_frames(where, frames, labels, segments, len(self.views), self.size)
        check_presence(where, "actions", actions, self.action_names)
        check_presence(where, "labels", labels, self.label_names)
        check_numbers(where, frames.shape[1], actions, self.action_names, extra or {})
        self._extra = check_columns(where, extra or {}, self._extra)
        self._is_broken = True  # until all of the episode is written
        length = frames.shape[1]
        columns: dict[str, Any] = {}
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [caption],
            "length": length,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + length,
            schema.SEGMENTS: [list(s) for s in (segments or [(0, length)])],
            schema.ATTRIBUTES: json.dumps(dict(attributes or {})),
        }
        for view, images in zip(self.views, frames):
            key = schema.CAMERA_PREFIX + view
            images = rearrange(images, "t c h w -> t h w c")
            if self.codec == "png":
                columns[key] = _png_column(images)
            else:
                row |= self._write_video(key, images)
            row |= self._image_statistics(key, images)
        for view, maps in zip(self.views, labels if labels is not None else []):
            key = schema.LABELS_PREFIX + view
            columns[key] = _png_column(maps)
            row |= self._image_statistics(key, maps[..., None])
        numbers = dict(extra or {}) | ({} if actions is None else {"action": actions})
        task = self._tasks.setdefault(caption, len(self._tasks))
        numbers |= self._index_columns(number, length, task)
        for name, values in numbers.items():
            feature = self._features()[name]
            columns[name] = schema.to_column(values, feature)
            row |= self._number_statistics(name, values)
        row |= self._write_data(columns)
        self._episodes.append(row)
        self._num_frames += length
        self._is_broken = False
        return number

    def _features(self) -> dict[str, dict[str, Any]]:
        height, width = self.size
        names = ["height", "width", "channels"]
        features: dict[str, dict[str, Any]] = {}
        for view in self.views:
            key = schema.CAMERA_PREFIX + view
            features[key] = {"dtype": "image", "shape": [height, width, 3], "names": names}
            if self.codec != "png":
                features[key] |= {"dtype": "video", "info": self._video_info()}
        if self.label_names is not None:
            info = {"is_label_map": True, "label_names": self.label_names}
            for view in self.views:
                shape = [height, width, 1]
                key = schema.LABELS_PREFIX + view
                features[key] = {"dtype": "image", "shape": shape, "names": names, "info": info}
        if self.action_names is not None:
            shape = [len(self.action_names)]
            features["action"] = {"dtype": "float32", "shape": shape, "names": self.action_names}
            if self.timing == schema.STEP_INTO_FRAME:
                features["action"]["info"] = {"timing": self.timing}
        return features | (self._extra or {}) | schema.INDEX_FEATURES

    def _video_info(self) -> dict[str, Any]:
        return {
            "video.height": self.size[0],
            "video.width": self.size[1],
            "video.codec": self.codec.removesuffix("-lossless"),
            "video.pix_fmt": "gbrp" if self.codec == "h264-lossless" else CODECS[self.codec][1],
            "video.is_depth_map": False,
            "video.fps": self.fps,
            "video.channels": 3,
            "has_audio": False,
        }

    def _video_keys(self) -> list[str]:
        return [] if self.codec == "png" else [schema.CAMERA_PREFIX + v for v in self.views]

    def _index_columns(self, number: int, length: int, task: int) -> dict[str, np.ndarray]:
        frame = np.arange(length)
        return {
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": frame + self._num_frames,
            "task_index": np.full(length, task),
        }

    def _write_video(self, key: str, images: np.ndarray) -> dict[str, Any]:
        encoder = self._encoders.get(key)
        if encoder is not None and encoder.num_bytes >= self._limits[1]:
            encoder.close()
            self._video_files[key] = schema.next_file(*self._video_files[key])
            encoder = None
        chunk, file = self._video_files[key]
        if encoder is None:
            name = schema.VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            encoder = VideoEncoder(path, fps=self.fps, size=self.size, codec=self.codec)
            self._encoders[key] = encoder
        start = encoder.num_frames
        encoder.write(np.ascontiguousarray(images))
        return {
            f"videos/{key}/chunk_index": chunk,
            f"videos/{key}/file_index": file,
            f"videos/{key}/from_timestamp": start / self.fps,
            f"videos/{key}/to_timestamp": encoder.num_frames / self.fps,
        }

    def _write_data(self, columns: dict[str, Any]) -> dict[str, Any]:
        """One row group per episode: reading an episode touches nothing else."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = schema.arrow_schema(self._features())
        table = pa.table([columns[name] for name in kinds.names], schema=kinds)
        if self._data_writer is not None and self._data_path().stat().st_size >= self._limits[0]:
            self._data_writer.close()
            self._data_writer = None
            self._data_file = schema.next_file(*self._data_file)
        if self._data_writer is None:
            self._data_path().parent.mkdir(parents=True, exist_ok=True)
            self._data_writer = pq.ParquetWriter(self._data_path(), kinds, compression="snappy")
        self._data_writer.write_table(table, row_group_size=len(table))
        chunk, file = self._data_file
        return {"data/chunk_index": chunk, "data/file_index": file}

    def _data_path(self) -> Path:
        chunk, file = self._data_file
        return self._folder / schema.DATA_PATH.format(chunk_index=chunk, file_index=file)

    def _number_statistics(self, name: str, values: np.ndarray) -> dict[str, Any]:
        rows = values.reshape(len(values), -1)
        episode = RunningStatistics(rows.shape[1])
        episode.update(rows)
        self._statistics.setdefault(name, RunningStatistics(rows.shape[1])).merge(episode)
        return {f"stats/{name}/{k}": v.tolist() for k, v in episode.compute().items()}

    def _image_statistics(self, key: str, images: np.ndarray) -> dict[str, Any]:
        step = max(1, len(images) // _STATISTICS_FRAMES)
        found = image_statistics(images[::step])
        self._images.setdefault(key, []).append(found)
        return {f"stats/{key}/{k}": v for k, v in found.items()}

    def _continue_dataset(self) -> None:
        state = load_state(self.root)
        self._extra = state.extra_features()
        differing = state.differing_keys(self._features(), self.fps)
        if differing:
            raise ValueError(
                f"{self.root} cannot be extended, it differs in: {', '.join(differing)}. "
                "Open the writer with the same settings, or write another dataset."
            )
        link_dataset(self.root, self._folder)
        self._first_episode, self._num_frames = state.num_episodes, state.num_frames
        self._tasks, self._statistics, self._images = state.tasks, state.statistics, state.images
        self._data_file, self._episodes_file = state.next_data_file, state.next_episodes_file
        self._video_files = {key: state.next_video_files[key] for key in self._video_keys()}

    def _finish(self) -> None:
        if self._is_broken:
            raise ValueError(f"{self.root}: an episode was left half written, nothing is kept.")
        if not self._episodes:
            raise ValueError(f"{self.root}: no episode was added, nothing is written.")
        self._data_writer.close()
        for encoder in self._encoders.values():
            encoder.close()
        write_tables(self._folder, self._episodes, self._tasks, self._episodes_file)
        write_json(self._folder / "meta/stats.json", self._all_statistics())
        write_json(self._folder / "meta/info.json", self._info())

    def _all_statistics(self) -> dict[str, Any]:
        merged = {key: merge_statistics(found) for key, found in self._images.items()}
        for name, statistics in self._statistics.items():
            shape = self._features()[name]["shape"]
            merged[name] = {
                k: (v.tolist() if k == "count" else v.reshape(shape).tolist())
                for k, v in statistics.compute().items()
            }
        return merged

    def _info(self) -> dict[str, Any]:
        total = self._first_episode + len(self._episodes)
        return {
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": total,
            "total_frames": self._num_frames,
            "total_tasks": len(self._tasks),
            "chunks_size": schema.CHUNKS_SIZE,
            "data_files_size_in_mb": schema.DATA_FILE_MB,
            "video_files_size_in_mb": schema.VIDEO_FILE_MB,
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{total}"},
            "data_path": schema.DATA_PATH,
            "video_path": schema.VIDEO_PATH if self._video_keys() else None,
            "features": self._features(),
        }


def choose_codec(codec: str, size: tuple[int, int]) -> str:
    """What "auto" means for frames of `size`; other names are checked and returned."""
    if codec == "auto":
        if size[0] * size[1] <= PNG_MAX_PIXELS:
            return "png"
        return "av1" if can_encode("av1") else "h264"
    if codec != "png" and codec not in CODECS:
        raise ValueError(f"Unknown codec {codec!r}: expected auto, png or {sorted(CODECS)}.")
    return codec


def _png_column(images: np.ndarray) -> Any:
    import pyarrow as pa

    cells = [
        {"bytes": schema.encode_png(i), "path": f"frame-{k:06d}.png"} for k, i in enumerate(images)
    ]
    return pa.array(cells, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
