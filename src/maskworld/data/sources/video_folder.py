"""A video, or a folder of videos with captions, actions and masks beside them, as a Source.

clips/drive_01.mp4               one episode
clips/drive_01.txt               its caption
clips/drive_01.npy (or .csv)     its actions, one row per frame; row t is the step into frame t
clips/drive_01.mask-car.mp4      optional: a mask video, white = car; several make a label map
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.data.sources.sidecars import find_actions, read_actions, read_caption
from maskworld.data.video_files import OpenVideos

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif")
MASK_THRESHOLD = 128
"""Of 255; mask videos are lossy and grey at their edges."""


class VideoFolderSource:
    """Every video at `path` is one episode, ordered by name, subfolders included.

    Videos may differ in size and frame rate; `size` and `fps` are None then, and a transform or
    the importer brings them to one.

    Args:
        path: a video file, or a folder of them.
        masks: class name -> where its mask video lies, relative to the video and with "{stem}" for
            the video's own name, for instance {"robot": "mask_robot.mp4"}. Class 0 is the
            background, later classes cover earlier ones. None = "{stem}.mask-<class>.<suffix>"
            files that are there.
        on_error: "raise" at the first bad file, or "skip" bad ones: they are listed with the
            reason in `skipped`, and a warning gives their number.
        unknown_actions: actions may hold NaN, for "not known".

    Raises:
        ValueError: no such path, no video in it, a bad file, or nothing left after skipping.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        masks: Mapping[str, str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        unknown_actions: bool = False,
    ) -> None:
        self._unknown_actions = unknown_actions
        if on_error not in ("raise", "skip"):
            raise ValueError(f"Expected on_error 'raise' or 'skip', got {on_error!r}.")
        self.path = Path(path)
        self.name = self.path.stem if self.path.is_file() else self.path.resolve().name
        self._videos = OpenVideos()
        self.skipped: list[tuple[Path, str]] = []
        """Files left out, each with the reason."""
        self._files: list[_File] = []
        files = find_videos(self.path, masks)
        for file in files:
            try:
                self._files.append(self._probe(file, masks))
            except ValueError as error:
                if on_error == "raise":
                    raise
                self.skipped.append((file, str(error)))
        if not self._files:
            raise ValueError(
                f"None of the {len(files)} videos in {self.path} can be used; the first: "
                f"{self.skipped[0][1]}"
            )
        self._check_channels()
        if self.skipped:
            reasons = "\n".join(f"  {reason}" for _, reason in self.skipped[:5])
            warnings.warn(
                f"{self.path}: {len(self.skipped)} of {len(files)} videos skipped:\n{reasons}",
                stacklevel=2,
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of all frames; None where the videos differ."""
        sizes = {file.size for file in self._files}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def fps(self) -> float | None:
        """Frames per second of all videos; None where they differ by more than 0.1 %."""
        rates = [file.fps for file in self._files]
        return rates[0] if max(rates) <= 1.001 * min(rates) else None

    @property
    def action_names(self) -> list[str] | None:
        """Names of the action channels; None where the videos have no actions."""
        first = self._files[0]
        if first.actions is None:
            return None
        return first.action_names or [f"action_{i}" for i in range(first.actions.shape[1])]

    @property
    def label_names(self) -> list[str] | None:
        """Class names of the label maps; None where there are no masks."""
        masks = self._files[0].masks
        return ["background", *masks] if masks else None

    @property
    def views(self) -> list[str]:
        return ["front"]

    def __len__(self) -> int:
        return len(self._files)

    def episode(self, index: int) -> VideoEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"{self.name} has {len(self)} videos, asked for number {index}.")
        return VideoEpisode(self._files[index], self._videos)

    def _probe(self, path: Path, masks: Mapping[str, str] | None) -> _File:
        info = self._videos.open(path).info
        mask_files = _mask_files(path, masks)
        for name, file in mask_files.items():
            found = self._videos.open(file).info
            if found.num_frames != info.num_frames:
                raise ValueError(
                    f"{file} has {found.num_frames} frames, {path.name} has {info.num_frames}: "
                    f"a mask video of {name!r} needs the frames of its video."
                )
        actions_file = find_actions(path)
        actions, names = (
            (None, None)
            if actions_file is None
            else read_actions(actions_file, info.num_frames, unknown=self._unknown_actions)
        )
        return _File(
            path,
            info.num_frames,
            info.fps,
            (info.height, info.width),
            read_caption(path),
            actions,
            names,
            mask_files,
        )

    def _check_channels(self) -> None:
        """Actions have one width, masks the same classes, in all videos that have them."""
        widths = {f.actions.shape[1]: f.path for f in self._files if f.actions is not None}
        if len(widths) > 1:
            raise ValueError(
                f"{self.path}: expected actions of one width, found "
                + ", ".join(f"{width} beside {path.name}" for width, path in widths.items())
                + ". Bring them to one layout, or keep them in separate folders."
            )
        classes = {tuple(f.masks): f.path for f in self._files}
        if len(classes) > 1:
            raise ValueError(
                f"{self.path}: expected mask videos of the same classes beside every video, found "
                + ", ".join(f"{list(c)} beside {path.name}" for c, path in classes.items())
            )


@dataclass(frozen=True)
class _File:
    path: Path
    num_frames: int
    fps: float
    size: tuple[int, int]
    caption: str
    actions: np.ndarray | None
    action_names: list[str] | None
    masks: dict[str, Path]


class VideoEpisode:
    """One video file; frames are decoded only when read."""

    def __init__(self, file: _File, videos: OpenVideos) -> None:
        self._file, self._videos = file, videos
        self.num_frames, self.fps, self.size = file.num_frames, file.fps, file.size
        self.caption = file.caption
        self.segments: Sequence[tuple[int, int]] = [(0, file.num_frames)]
        self.actions: Float[np.ndarray, "t a"] | None = file.actions
        self.attributes = {"file": file.path.name}

    @property
    def path(self) -> Path:
        return self._file.path

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "1 n c h w"]:
        """RGB frames; the one view comes first."""
        images = self._videos.open(self.path).read(indices)
        return rearrange(images, "n h w c -> 1 n c h w")

    def read_labels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "1 n h w"] | None:
        """Classes at the size of the frames, from the mask videos; None where there are none."""
        if not self._file.masks:
            return None
        labels = np.zeros((len(indices), *self.size), dtype=np.uint8)
        for number, path in enumerate(self._file.masks.values(), start=1):
            masks = self._videos.open(path).read(indices).max(axis=-1)
            labels[_resized(masks, self.size) >= MASK_THRESHOLD] = number
        return labels[None]


def _resized(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    if masks.shape[1:] == size:
        return masks
    return np.stack([cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in masks])


def find_videos(path: Path | str, masks: Mapping[str, str] | None = None) -> list[Path]:
    """The video files at `path` by name, hidden ones and mask videos left out.

    Raises:
        ValueError: nothing there, or no file with the suffix of a video.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"Expected a video or a folder of videos at {path}, found nothing.")
    files = [
        p
        for p in sorted(path.rglob("*"))
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
    ]
    mask_files = {m for p in files for m in _mask_files(p, masks).values()}
    videos = [p for p in files if p not in mask_files]
    if not videos:
        found = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
        raise ValueError(
            f"{path} holds no video: expected files with one of the suffixes "
            f"{', '.join(SUFFIXES)}, found {found[:5] if found else 'an empty folder'}."
        )
    return videos


def _mask_files(video: Path, masks: Mapping[str, str] | None) -> dict[str, Path]:
    if masks is None:
        prefix = f"{video.stem}.mask-"
        return {
            p.stem.removeprefix(prefix): p
            for p in sorted(video.parent.iterdir())
            if p.name.startswith(prefix) and p.suffix.lower() in SUFFIXES
        }
    found = {name: video.parent / rule.format(stem=video.stem) for name, rule in masks.items()}
    return {name: file for name, file in found.items() if file.is_file() and file != video}
