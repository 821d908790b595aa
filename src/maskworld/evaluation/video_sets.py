"""Sets of clips that video metrics read one after another: folders of videos, or frames in memory.

A set never holds more than the clips being scored. Every video is opened once beforehand, so that a
short, damaged or differently timed one is named before hours are spent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from maskworld.data.sources.video_folder import find_videos
from maskworld.data.video_files import OpenVideos
from maskworld.interfaces import Source
from maskworld.metrics.protocol import Selection
from maskworld.metrics.video_features.weights import sha256_of


@runtime_checkable
class ClipSet(Protocol):
    """Clips of one length and size, in a fixed order."""

    num_scored: int
    size: tuple[int, int]
    fps: float | None
    units: Sequence[str]
    """Per clip the video or recording that it is of: clips of one unit are not independent."""

    def __len__(self) -> int: ...

    def clip(self, index: int) -> UInt8[Tensor, "t c h w"]: ...

    def sha256(self) -> str:
        """Of the list of clips and what they are of."""
        ...


def select_frames(
    available: int, num_frames: int, stride: int, selection: Selection
) -> list[int] | None:
    """Numbers of a clip's frames in a video; None where the video is too short.

    first, last: `num_frames` frames, `stride` apart. even: spread over the whole video, its first
    and last frame among them, whatever the stride.
    """
    span = (num_frames - 1) * stride + 1 if selection != "even" else num_frames
    if available < span:
        return None
    if selection == "even":
        return [int(i) for i in np.linspace(0, available - 1, num_frames).round()]
    start = 0 if selection == "first" else available - span
    return list(range(start, start + span, stride))


class FolderClips:
    """One clip from every video of a folder (subfolders included), or several, ordered by name.

    Args:
        num_frames: of a clip, condition frames counted.
        skip: condition frames to leave out at the start of every clip.
        num_clips: take the first ones by name; None = all there are.
        every: frames from the start of one clip to the next of the same video; None = one clip per
            video. Only with selection "first".
        size: height and width to scale to while decoding (area average); None = as stored.

    Raises:
        ValueError: no videos, fewer clips than asked for, videos of different sizes or frame rates,
            a damaged or too short one; names it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        num_frames: int,
        stride: int = 1,
        selection: Selection = "first",
        skip: int = 0,
        num_clips: int | None = None,
        every: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        if every is not None and (selection != "first" or every < 1):
            raise ValueError(
                f"Expected several clips of a video only with selection 'first' and at least one "
                f"frame between their starts, found {selection!r} and {every}."
            )
        self.path = Path(path)
        self.num_scored = num_frames - skip
        self._videos = OpenVideos(max_open=1, size=size)
        self._clips: list[tuple[Path, list[int]]] = []
        units: list[str] = []
        self.units: Sequence[str] = units
        sizes: dict[tuple[int, int], Path] = {}
        rates: dict[float, Path] = {}
        root = self.path if self.path.is_dir() else self.path.parent
        for file in find_videos(self.path):
            if num_clips is not None and len(self._clips) >= num_clips:
                break
            info = self._videos.open(file).info
            sizes.setdefault((info.height, info.width), file)
            rates.setdefault(round(info.fps, 2), file)
            frames = select_frames(info.num_frames, num_frames, stride, selection)
            if frames is None:
                raise ValueError(
                    f"{file} has {info.num_frames} frames, too few for a clip of {num_frames} "
                    f"frames {stride} apart: score shorter clips, or leave the video out of both "
                    "folders."
                )
            hops = range(0, info.num_frames - frames[-1], every) if every else (0,)
            for hop in hops:
                self._clips.append((file, [frame + hop for frame in frames][skip:]))
                units.append(str(file.relative_to(root).with_suffix("")))
        self._cut(num_clips)
        for what, found in (("size", sizes), ("frame rate", rates)):
            if len(found) > 1:
                listed = ", ".join(f"{value} ({file.name})" for value, file in found.items())
                raise ValueError(
                    f"Expected videos of one {what} in {self.path}, found {listed}: bring them to "
                    "one" + (", or give a size to scale to." if what == "size" else ".")
                )
        self.size = next(iter(sizes))
        self.fps: float | None = next(iter(rates))

    def _cut(self, num_clips: int | None) -> None:
        if num_clips is None:
            return
        if len(self._clips) < num_clips:
            raise ValueError(
                f"Expected {num_clips} clips in {self.path}, found {len(self._clips)}: this many "
                "belong to the protocol. Give more videos, or score without the preset."
            )
        del self._clips[num_clips:]
        self.units = self.units[:num_clips]

    def __len__(self) -> int:
        return len(self._clips)

    def clip(self, index: int) -> UInt8[Tensor, "t c h w"]:
        """The scored frames of one clip.

        Raises:
            ValueError: the video cannot be decoded; names it.
        """
        path, frames = self._clips[index]
        pixels = self._videos.open(path).read(frames)
        return torch.from_numpy(rearrange(pixels, "t h w c -> t c h w").copy())

    def sha256(self) -> str:
        """Of names, first frames and the files' own hashes."""
        digest = hashlib.sha256()
        hashes: dict[Path, str] = {}
        for (path, frames), unit in zip(self._clips, self.units, strict=True):
            if path not in hashes:
                hashes[path] = sha256_of(path)
            digest.update(f"{unit}\t{frames[0]}\t{hashes[path]}\n".encode())
        return digest.hexdigest()


class SourceClips:
    """Clips of one view of a source, from stretches without a cut; an episode is a unit.

    Args:
        every: frames from the start of one clip to the next of the same stretch; None = one clip of
            each stretch.
        num_clips, skip, stride: as `FolderClips`.

    Raises:
        ValueError: fewer clips than asked for, or none.
    """

    def __init__(
        self,
        source: Source,
        *,
        num_frames: int,
        stride: int = 1,
        skip: int = 0,
        num_clips: int | None = None,
        every: int | None = None,
        view: int = 0,
    ) -> None:
        self._source, self._view, self.num_scored = source, view, num_frames - skip
        self._clips: list[tuple[int, list[int]]] = []
        span = (num_frames - 1) * stride + 1
        rates = set()
        for index in range(len(source)):
            if num_clips is not None and len(self._clips) >= num_clips:
                break
            episode = source.episode(index)
            rates.add(round(episode.fps, 2))
            for first, end in episode.segments:
                last = end - span + 1
                for start in range(first, last, every) if every else range(first, last)[:1]:
                    self._clips.append((index, list(range(start, start + span, stride))[skip:]))
        if not self._clips or len(self._clips) < (num_clips or 0):
            raise ValueError(
                f"Expected {num_clips or 'some'} clips of {num_frames} frames in {source.name}, "
                f"found {len(self._clips)}: give more recordings, or score shorter clips."
            )
        if len(rates) > 1:
            raise ValueError(f"Expected recordings of one frame rate, found {sorted(rates)}.")
        del self._clips[num_clips or len(self._clips) :]
        self.units: Sequence[str] = [f"{source.name} {index}" for index, _ in self._clips]
        self.fps: float | None = rates.pop()
        self.size = (self.clip(0).shape[-2], self.clip(0).shape[-1])

    def __len__(self) -> int:
        return len(self._clips)

    def clip(self, index: int) -> UInt8[Tensor, "t c h w"]:
        """The scored frames of one clip."""
        episode, frames = self._clips[index]
        return torch.from_numpy(self._source.episode(episode).read(frames)[self._view].copy())

    def sha256(self) -> str:
        """Of recordings, frames and pixels: a source has no one file per clip."""
        digest = hashlib.sha256()
        for index, (unit, (_, frames)) in enumerate(zip(self.units, self._clips, strict=True)):
            digest.update(f"{unit}\t{frames[0]}\n".encode())
            digest.update(self.clip(index).contiguous().numpy().tobytes())
        return digest.hexdigest()


class TensorClips:
    """Clips already in memory; views count as clips of their own.

    Args:
        groups: world or recording of each row.
    """

    def __init__(
        self,
        frames: UInt8[Tensor, "b v f c h w"],
        groups: Sequence[str],
        fps: float | None = None,
    ) -> None:
        if len(groups) != len(frames):
            raise ValueError(
                f"Expected a group for each of {len(frames)} rows, found {len(groups)}."
            )
        self._frames = rearrange(frames, "b v f c h w -> (b v) f c h w")
        self.units: Sequence[str] = [str(group) for group in groups for _ in range(frames.shape[1])]
        self.num_scored = frames.shape[2]
        self.size = (frames.shape[-2], frames.shape[-1])
        self.fps = fps

    def __len__(self) -> int:
        return len(self._frames)

    def clip(self, index: int) -> UInt8[Tensor, "t c h w"]:
        return self._frames[index]

    def sha256(self) -> str:
        """Of groups and pixels."""
        digest = hashlib.sha256("\n".join(self.units).encode())
        for clip in self._frames:
            digest.update(clip.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


def check_pair(real: ClipSet, dreamt: ClipSet) -> None:
    """Raises ValueError unless two sets can be told apart by what they show alone."""
    if real.num_scored != dreamt.num_scored:
        raise ValueError(
            f"Expected clips of one length, found {real.num_scored} real and {dreamt.num_scored} "
            "dreamt frames: cut both alike."
        )
    rates = [clips.fps for clips in (real, dreamt) if clips.fps is not None]
    if len(rates) == 2 and abs(rates[0] - rates[1]) > 0.01 * rates[0]:
        raise ValueError(
            f"Expected one frame rate, found {rates[0]:g} real and {rates[1]:g} dreamt frames per "
            "second: motion would differ although nothing else does. Bring both to one."
        )
