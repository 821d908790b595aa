"""The metadata tables of LeRobotDataset v3.0: written, and read back to extend a dataset."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskworld.data import lerobot_schema as schema
from maskworld.data.lerobot_metadata import read_info, read_tables
from maskworld.data.statistics import RunningStatistics
from maskworld.data.storage import atomic_path


@dataclass(frozen=True)
class DatasetState:
    """Where a finished dataset stands, for the writer to go on from."""

    features: dict[str, dict[str, Any]]
    fps: float | int
    num_episodes: int
    num_frames: int
    tasks: dict[str, int]
    statistics: dict[str, RunningStatistics]
    images: dict[str, list[dict[str, Any]]]
    next_data_file: tuple[int, int]
    next_episodes_file: tuple[int, int]
    next_video_files: dict[str, tuple[int, int]]

    def extra_features(self) -> dict[str, dict[str, Any]]:
        """The number columns beside actions and indices."""
        return {
            name: feature
            for name, feature in self.features.items()
            if feature["dtype"] not in ("image", "video")
            and name != "action"
            and name not in schema.INDEX_FEATURES
        }

    def differing_keys(self, features: dict[str, dict[str, Any]], fps: float | int) -> list[str]:
        """What keeps episodes of these features out of the dataset."""
        keys = sorted(self.features.keys() | features.keys())
        found = [k for k in keys if self.features.get(k) != features.get(k)]
        return found if self.fps == fps else ["fps", *found]


def write_tables(
    folder: Path, episodes: list[dict[str, Any]], tasks: dict[str, int], file: tuple[int, int]
) -> None:
    """Writes the episode table (one new file) and the task table (whole)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chunk, index = file
    place = {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": index}
    path = folder / schema.EPISODES_PATH.format(chunk_index=chunk, file_index=index)
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([row | place for row in episodes]), temporary)
    # LeRobot reads tasks with pandas and wants the text as the index of the frame.
    described = [
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64"}
        | {"numpy_type": "int64"},
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [d | {"metadata": None} for d in described],
        "pandas_version": "2.0.0",
    }
    kinds = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(pandas)}
    )
    table = pa.table([list(tasks.values()), list(tasks)], schema=kinds)
    with atomic_path(folder / "meta/tasks.parquet") as temporary:
        pq.write_table(table, temporary)


def load_state(root: Path) -> DatasetState:
    """Reads what the writer needs to extend the v3.0 dataset at `root`."""
    import pyarrow.parquet as pq

    info = read_info(root)
    if info["codebase_version"] != "v3.0":
        raise ValueError(
            f"{root} is LeRobotDataset {info['codebase_version']}: only v3.0 can be extended. "
            "Read it and write a new dataset."
        )
    episodes, tasks = read_tables(root, info)
    statistics: dict[str, RunningStatistics] = {}
    for path in sorted((root / "data").rglob("*.parquet")):
        names = [k for k, f in info["features"].items() if f["dtype"] not in ("image", "video")]
        table = pq.read_table(path, columns=names)
        for name in names:
            values = schema.from_column(table[name]).reshape(len(table), -1)
            statistics.setdefault(name, RunningStatistics(values.shape[1])).update(values)
    stored = json.loads((root / "meta/stats.json").read_text(encoding="utf-8"))
    images = {k: [v] for k, v in stored.items() if k not in statistics}
    videos = [k for k, f in info["features"].items() if f["dtype"] == "video"]
    return DatasetState(
        features=info["features"],
        fps=info["fps"],
        num_episodes=len(episodes),
        num_frames=sum(row["length"] for row in episodes),
        tasks={task: index for index, task in tasks.items()},
        statistics=statistics,
        images=images,
        next_data_file=_after(episodes, "data"),
        next_episodes_file=_after(episodes, "meta/episodes"),
        next_video_files={key: _after(episodes, f"videos/{key}") for key in videos},
    )


def link_dataset(root: Path, folder: Path) -> None:
    """Puts the frame, video and episode files of `root` under `folder` too: as hard links, so that
    nothing is copied and nothing at `root` changes, or as copies across file systems."""
    for part in ("data", "videos", "meta/episodes"):
        for path in (p for p in (root / part).rglob("*") if p.is_file()):
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # no hard links here
                shutil.copy2(path, target)


def image_statistics(images: UInt8[np.ndarray, "n h w c"]) -> dict[str, Any]:
    """Per channel, of pixels in [0, 1], shaped `c 1 1` as LeRobot does; `count` images."""
    counts = np.stack(
        [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)]
    )
    level = np.arange(256) / 255.0
    mean = counts @ level / counts.sum(axis=1)
    spread = (counts * (level - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)

    def nested(per_channel: np.ndarray) -> list[list[list[float]]]:
        return [[[float(x)]] for x in per_channel]

    return {
        "min": nested(level[(counts > 0).argmax(axis=1)]),
        "max": nested(level[255 - (counts[:, ::-1] > 0).argmax(axis=1)]),
        "mean": nested(mean),
        "std": nested(np.sqrt(spread)),
        "count": [len(images)],
    }


def merge_statistics(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Moments of everything together from the moments of parts (quantiles cannot be merged)."""

    def stack(name: str) -> np.ndarray:
        return np.array([f[name] for f in found], dtype=np.float64)

    mean, std = stack("mean"), stack("std")
    counts = stack("count").reshape(-1, *[1] * (mean.ndim - 1))
    total = counts.sum()
    merged = (mean * counts).sum(axis=0) / total
    variance = ((std**2 + (mean - merged) ** 2) * counts).sum(axis=0) / total
    return {
        "min": stack("min").min(axis=0).tolist(),
        "max": stack("max").max(axis=0).tolist(),
        "mean": merged.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(total)],
    }


def _after(episodes: list[dict[str, Any]], part: str) -> tuple[int, int]:
    last = max((row[f"{part}/chunk_index"], row[f"{part}/file_index"]) for row in episodes)
    return schema.next_file(*last)
