"""Frames to video files, through PyAV."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

from maskworld.data.storage import atomic_path

# Encoder, pixel format, options. A keyframe every second frame makes random access cheap (the
# LeRobot default); crf 30 for AV1 is its default too. RGB is kept by libx264rgb at qp 0 only.
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "av1": ("libsvtav1", "yuv420p", {"g": "2", "crf": "30", "preset": "8"}),
    "h264": ("libx264", "yuv420p", {"g": "2", "crf": "18", "preset": "fast"}),
    "h264-lossless": ("libx264rgb", "rgb24", {"g": "2", "qp": "0", "preset": "fast"}),
}


class VideoEncoder:
    """Frames to one file, as they come. `codec` is a key of CODECS.

    Raises:
        ValueError: an unknown codec, or one that this PyAV cannot write.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float | int,
        size: tuple[int, int],
        codec: str,
        **options: str,
    ) -> None:
        import av

        if codec not in CODECS:
            raise ValueError(f"Unknown codec {codec!r}: expected one of {sorted(CODECS)}.")
        name, pixel_format, defaults = CODECS[codec]
        if not can_encode(codec):
            raise ValueError(f"This PyAV has no {name} encoder: choose another codec than {codec}.")
        self.path, self.size, self.num_frames, self.num_bytes = Path(path), size, 0, 0
        lossless = codec.endswith("lossless")
        # 4:2:0 halves the chroma: odd sizes get their last row or column twice.
        self._pad = (0, 0) if lossless else (size[0] % 2, size[1] % 2)
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings to stderr otherwise
        self._container: Any = av.open(str(path), "w", options={"movflags": "+faststart"})
        rate = Fraction(fps).limit_denominator(60000)
        stream = cast(Any, self._container.add_stream(name, rate=rate, options=defaults | options))
        stream.height, stream.width = size[0] + self._pad[0], size[1] + self._pad[1]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = 1 / rate
        self._stream = stream

    def write(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        import av

        if frames.shape[1:3] != self.size:
            raise ValueError(f"Expected frames of {self.size}, found {frames.shape[1:3]}.")
        if any(self._pad):
            frames = np.pad(frames, [(0, 0), (0, self._pad[0]), (0, self._pad[1]), (0, 0)], "edge")
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = self.num_frames, self._stream.codec_context.time_base
            self._mux(self._stream.encode(frame))
            self.num_frames += 1

    def _mux(self, packets: list[Any]) -> None:
        self.num_bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)

    def close(self) -> None:
        """Flushes the encoder and writes the index; the file is readable only afterwards."""
        self._mux(self._stream.encode(None))
        self._container.close()

    def abort(self) -> None:
        """Closes without flushing, after an error."""
        self._container.close()


@contextmanager
def stream_video(
    path: Path | str, *, fps: float | int, size: tuple[int, int], what: str = "a video"
) -> Iterator[VideoEncoder]:
    """An mp4 that browsers play (h264, yuv420p; odd sizes get one row or column more), written as
    its frames come: `write` them to the encoder. The file appears once the block has succeeded.

    Args:
        size: height and width.
        what: is written, for the message of a full disk.

    Raises:
        ValueError: no size, no rate, or a block that wrote no frame.
    """
    if min(size) == 0:
        raise ValueError(f"Expected frames with pixels, found size {size}.")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"Expected fps above 0, got {fps}.")
    with atomic_path(path, what=what) as temporary:
        encoder = VideoEncoder(temporary, fps=fps, size=size, codec="h264", g="12")
        try:
            yield encoder
            if not encoder.num_frames:
                raise ValueError(f"Expected at least one frame for {path}, found none.")
        except BaseException:
            encoder.abort()
            raise
        encoder.close()


def write_video(path: Path | str, frames: UInt8[np.ndarray, "t h w 3"], fps: float | int) -> None:
    """Writes an mp4 that browsers play, as `stream_video`."""
    if frames.shape[0] == 0 or min(frames.shape[1:3]) == 0:
        raise ValueError(f"Expected at least one frame with pixels, found shape {frames.shape}.")
    size, what = (frames.shape[1], frames.shape[2]), f"a video of {len(frames)} frames"
    with stream_video(path, fps=fps, size=size, what=what) as encoder:
        encoder.write(frames)


def can_encode(codec: str) -> bool:
    """Whether this PyAV can write `codec` (a key of CODECS)."""
    import av

    return CODECS[codec][0] in av.codecs_available
