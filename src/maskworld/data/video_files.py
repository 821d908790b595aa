"""Video files: exact frames by number or by time, and browser-playable mp4, through PyAV.

Reading is here; writing is in video_encoder and can be imported from here too.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskworld.data.episodes import Recent
from maskworld.data.video_encoder import (
    CODECS,
    VideoEncoder,
    can_encode,
    stream_video,
    write_video,
)

__all__ = [
    "CODECS",
    "OpenVideos",
    "VideoEncoder",
    "VideoIndex",
    "VideoInfo",
    "VideoReader",
    "can_encode",
    "probe_video",
    "read_video",
    "stream_video",
    "write_video",
]


@dataclass(frozen=True)
class VideoIndex:
    """Presentation times of every frame and of the keyframes, in units of `time_base` seconds."""

    pts: list[int]
    keyframes: list[int]
    time_base: Fraction
    fps: float


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds. Sizes are as displayed (rotation applied)."""

    path: Path
    num_frames: int
    fps: float
    height: int
    width: int
    codec: str


class VideoReader:
    """Frames of one video file in any order.

    The decoder stays open and goes on from where it stands, so that neighbouring windows do not
    decode the same frames twice; it seeks only where a keyframe lies between it and the target.

    Args:
        size: height and width to scale to while converting (area average), None = as stored.
        index: the index of an earlier reader of the same file, to save reading it again.

    Raises:
        ValueError: the file is missing, empty, truncated, no video, or changes its frame size.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        size: tuple[int, int] | None = None,
        index: VideoIndex | None = None,
    ) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = Path(path)
        self.size = size
        self._scaler = VideoReformatter()
        self._container = _open(self.path)
        self._stream = _video_stream(self._container, self.path)
        self._stream.thread_count = 1  # parallelism belongs to the loader's workers
        self.index = index if index is not None else _read_index(self._container, self.path)
        self._decoder: Iterator[Any] | None = None
        self._frame: Any = None  # the last decoded frame
        self._shape: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.index.pts)

    @property
    def info(self) -> VideoInfo:
        height, width = self.read([0]).shape[1:3]
        codec = str(self._stream.codec_context.name)
        return VideoInfo(self.path, len(self), self.index.fps, height, width, codec)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
        """The frames numbered `indices` (from 0, in display order), in the order asked."""
        count = len(self)
        wrong = [i for i in indices if not 0 <= i < count]
        if wrong:
            raise ValueError(f"{self.path} has {count} frames, asked for frame {wrong[0]}.")
        return self._read_pts([self.index.pts[i] for i in indices])

    def read_times(
        self, times: Sequence[float | int], tolerance: float | int
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """The frames nearest to `times`, in seconds from the first frame.

        Raises:
            ValueError: no frame lies within `tolerance` seconds.
        """
        pts, base = self.index.pts, float(self.index.time_base)
        chosen = []
        for time in times:
            target = pts[0] + time / base
            right = bisect_left(pts, target)
            near = min(pts[max(right - 1, 0) : right + 1], key=lambda p: abs(p - target))
            if abs(near - target) * base > tolerance:
                raise ValueError(
                    f"{self.path}: no frame within {tolerance:.4f} s of {time:.4f} s, the nearest "
                    f"lies at {(near - pts[0]) * base:.4f} s. The video is shorter than its "
                    "metadata says, or of another frame rate: export the dataset again."
                )
            chosen.append(near)
        return self._read_pts(chosen)

    def close(self) -> None:
        self._decoder = self._frame = None
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_pts(self, pts: list[int]) -> np.ndarray:
        images = {p: self._convert(self._decode(p)) for p in sorted(set(pts))}
        if not images:
            raise ValueError(f"Expected at least one frame to read from {self.path}, got none.")
        return np.stack([images[p] for p in pts])

    def _decode(self, target: int) -> Any:
        if self._frame is not None and self._frame.pts == target:
            return self._frame
        if self._must_seek(target):
            self._seek(target)
        frame = self._advance(target)
        if frame is None or frame.pts != target:  # landed after it (open GOP): from the beginning
            self._seek(self.index.pts[0])
            frame = self._advance(target)
        if frame is None or frame.pts != target:
            number = bisect_left(self.index.pts, target)
            raise ValueError(
                f"Frame {number} of {self.path} cannot be decoded: the file is damaged or "
                "truncated. Copy or export it again."
            )
        return frame

    def _must_seek(self, target: int) -> bool:
        if self._decoder is None or self._frame is None or target < self._frame.pts:
            return True
        keys = self.index.keyframes
        return bisect_right(keys, target) > bisect_right(keys, self._frame.pts)

    def _seek(self, target: int) -> None:
        self._container.seek(target, stream=self._stream, backward=True)
        self._decoder, self._frame = self._container.decode(self._stream), None

    def _advance(self, target: int) -> Any:
        """Decodes up to the first frame at or after `target`."""
        import av

        assert self._decoder is not None
        try:
            for frame in self._decoder:
                self._frame = frame
                if frame.pts is not None and frame.pts >= target:
                    return frame
        except av.error.FFmpegError as error:
            self._decoder = None
            raise ValueError(
                f"{self.path} cannot be decoded ({error}): the file is damaged or truncated. "
                "Copy or export it again."
            ) from error
        self._decoder = None
        return None

    def _convert(self, frame: Any) -> np.ndarray:
        shape = (frame.height, frame.width)
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            raise ValueError(
                f"{self.path} changes its frame size from {self._shape} to {shape}: "
                "expected one size per file; split it or scale it to one size first."
            )
        quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
        height, width = self.size or shape
        if quarter_turns % 2 and self.size is not None:
            height, width = width, height
        # One scaler for all frames, of one thread: threads cost more than they bring at these
        # sizes, and freeing them in a forked worker would wait for ever.
        kind = "BILINEAR" if (height, width) == shape else "AREA"
        image = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=kind, threads=1
        ).to_ndarray()
        return np.rot90(image, quarter_turns) if quarter_turns else image


class OpenVideos:
    """Keeps the readers used last open, and every index once read. Safe across fork and pickle:
    a worker opens its own. `size` scales every video while it is decoded."""

    def __init__(self, max_open: int = 8, size: tuple[int, int] | None = None) -> None:
        self._max_open, self._size = max_open, size
        self._indexes: dict[Path, VideoIndex] = {}
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._readers: Recent[Path, VideoReader] = Recent(self._max_open, VideoReader.close)

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open, "_size": self._size, "_indexes": self._indexes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    def open(self, path: Path) -> VideoReader:
        if self._pid != os.getpid():
            self._of_parent = self._readers  # kept: closing them here would disturb the parent's
            self._forget()
        reader = self._readers.get(
            path, lambda: VideoReader(path, size=self._size, index=self._indexes.get(path))
        )
        self._indexes[path] = reader.index
        return reader


def probe_video(path: Path | str) -> VideoInfo:
    """Counts the frames and decodes the first. Raises ValueError as VideoReader does."""
    with VideoReader(path) as reader:
        return reader.info


def read_video(
    path: Path | str,
    start: int = 0,
    stop: int | None = None,
    stride: int = 1,
    *,
    size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames `start:stop:stride` of a video, scaled to `size` (height, width) if given."""
    with VideoReader(path, size=size) as reader:
        indices = range(len(reader))[start:stop:stride]
        if not indices:
            raise ValueError(
                f"{path} has {len(reader)} frames: frames {start}:{stop} are none of them."
            )
        return reader.read(indices)


def _open(path: Path) -> Any:
    import av

    if not path.is_file():
        raise ValueError(f"Expected a video file at {path}, found {_what_is(path)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): expected a video. Copy or record it again.")
    try:
        return av.open(str(path), metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be opened, it is {_reason(path)}. ({error})") from error


def _reason(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:] == b"ftyp":
        return "a truncated mp4 (its index or its frames are missing): copy or export it again"
    return "no video that FFmpeg knows: remove or convert it"


def _what_is(path: Path) -> str:
    return "a folder" if path.is_dir() else "nothing"


def _video_stream(container: Any, path: Path) -> Any:
    if len(container.streams) == 0:
        raise ValueError(f"{path} cannot be opened, it is {_reason(path)}.")
    if not container.streams.video:
        raise ValueError(f"{path} has no video stream: expected a video, found sound or text only.")
    return container.streams.video[0]


def _read_index(container: Any, path: Path) -> VideoIndex:
    """Reads all packets once, without decoding them."""
    import av

    stream = container.streams.video[0]
    pts, keyframes, unnamed = set(), set(), False
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                unnamed = True
                continue
            pts.add(packet.pts)
            if packet.is_keyframe:
                keyframes.add(packet.pts)
        if unnamed:  # old containers (AVI) name no times: only decoding tells
            container.seek(0)
            frames = [(f.pts, f.key_frame) for f in container.decode(stream) if f.pts is not None]
            pts, keyframes = {p for p, _ in frames}, {p for p, is_key in frames if is_key}
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} breaks off after {len(pts)} frames ({error}): it is damaged or truncated. "
            "Copy or export it again."
        ) from error
    if not pts:
        raise ValueError(f"{path} holds no frame: expected at least one. Record it again.")
    if stream.frames > len(pts) + 1:
        raise ValueError(
            f"{path} is truncated: its header promises {stream.frames} frames, {len(pts)} are "
            "there. Copy or export it again."
        )
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return VideoIndex(sorted(pts), sorted(keyframes), stream.time_base, float(rate))
