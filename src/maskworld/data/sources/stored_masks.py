"""Masks that were made after a recording: a folder beside the dataset, and any source with it.

    robot/                     a LeRobot dataset, videos, ...
    robot.masks/meta.json      class names, cameras, size
    robot.masks/episode-000000.zip      <camera>/000000.png, ...: one 8-bit channel, the class

Each archive appears whole or not at all, so an interrupted run leaves complete episodes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskworld.data.episodes import Source
from maskworld.data.lerobot_schema import decode_image, encode_png
from maskworld.data.storage import atomic_path, write_json

FORMAT, VERSION = "maskworld-masks", 1


@dataclass(frozen=True)
class MaskMeta:
    """What all masks of a folder share."""

    label_names: list[str]
    """Class names, the background first."""
    views: list[str]
    num_episodes: int
    made_by: dict[str, Any]
    """The segmenter and its settings, to resume with the same."""


def masks_folder(path: Path | str) -> Path:
    """Where the masks of the dataset or video at `path` lie."""
    path = Path(path)
    return path.with_name(f"{path.name}.masks")


def write_meta(folder: Path, meta: MaskMeta) -> None:
    """Writes meta.json, or checks that the one there says the same.

    Raises:
        ValueError: masks of other classes, cameras or settings are there.
    """
    if (folder / "meta.json").is_file():
        found = read_meta(folder)
        differing = [k for k, v in asdict(meta).items() if asdict(found)[k] != v]
        if differing:
            raise ValueError(
                f"{folder} holds masks made otherwise: {', '.join(differing)} differ. Use the same "
                "settings to go on, choose another folder, or remove it."
            )
        return
    write_json(folder / "meta.json", {"format": FORMAT, "version": VERSION, **asdict(meta)})


def read_meta(folder: Path) -> MaskMeta:
    """Raises ValueError where `folder` holds no masks."""
    path = folder / "meta.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (values.pop("format"), values.pop("version")) != (FORMAT, VERSION):
            raise ValueError("another format or version")
        return MaskMeta(**values)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected stored masks in {folder}, found none ({error}): make them with `maskworld "
            "data segment`."
        ) from error


def episode_file(folder: Path, episode: int) -> Path:
    return folder / f"episode-{episode:06d}.zip"


def write_episode(
    path: Path, views: Mapping[str, Iterable[UInt8[np.ndarray, "h w"]]], num_frames: int
) -> None:
    """Stores the class maps of every camera, as they come, whole or not at all.

    Raises:
        ValueError: not one map per frame.
    """
    what = f"the masks of {path.stem}"
    with atomic_path(path, what=what) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for view, maps in views.items():
            count = 0
            for count, labels in enumerate(maps, start=1):
                archive.writestr(f"{view}/{count - 1:06d}.png", encode_png(labels))
            if count != num_frames:
                raise ValueError(
                    f"{path.stem}: expected {num_frames} masks of {view}, got {count}."
                )


class MaskedSource:
    """A source whose masks are those of a folder; everything else is its own.

    Raises:
        ValueError: no masks there, or masks of other cameras or another number of episodes.
    """

    def __init__(self, source: Source, folder: Path | str) -> None:
        self._source, self.folder = source, Path(folder)
        self.meta = read_meta(self.folder)
        self.name, self.label_names = source.name, self.meta.label_names
        views = list(getattr(source, "views", self.meta.views))
        if unknown := [view for view in views if view not in self.meta.views]:
            raise ValueError(
                f"{self.folder}: expected masks of the cameras {views}, {unknown} are missing: "
                "choose other cameras, or make masks of all."
            )
        if self.meta.num_episodes != len(source):
            raise ValueError(
                f"{self.folder} holds masks of {self.meta.num_episodes} episodes, {source.name} "
                f"has {len(source)}: they are of another dataset."
            )
        self.views = views

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not yet there while a worker unpickles
            raise AttributeError(name)
        return getattr(self._source, name)

    def episode(self, index: int) -> MaskedEpisode:
        file = episode_file(self.folder, index)
        return MaskedEpisode(self._source.episode(index), file, self.views)


class MaskedEpisode:
    """An episode with masks of an archive; everything else is its own."""

    def __init__(self, episode: Any, path: Path, views: Sequence[str]) -> None:
        self._episode, self._path, self._views = episode, path, list(views)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._episode, name)

    def read_labels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n h w"]:
        """Class maps of every camera.

        Raises:
            ValueError: masks of this episode or frame are missing or damaged.
        """
        if not self._path.is_file():
            raise ValueError(
                f"{self._path} is missing: make the masks of this episode too (the same `maskworld "
                "data segment` goes on where it stopped)."
            )
        try:
            with zipfile.ZipFile(self._path) as archive:
                found = [
                    [self._map(archive, f"{view}/{i:06d}.png") for i in indices]
                    for view in self._views
                ]
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{self._path} is damaged or incomplete ({error}).") from error
        return np.stack([np.stack(maps) for maps in found])

    def _map(self, archive: zipfile.ZipFile, name: str) -> np.ndarray:
        return decode_image(archive.read(name), True, f"{self._path}, {name}")


def with_masks_beside(source: Any, path: Path | str) -> Any:
    """`source` with the masks stored beside the data at `path`; the source itself without any.

    Raises:
        ValueError: masks of other cameras or another number of episodes are there.
    """
    folder = masks_folder(path)
    return MaskedSource(source, folder) if folder.is_dir() else source
