"""Videos inside a page: every frame of a clip side by side in one image.

A browser seeks inside a video only roughly, and several of them drift apart. One image per clip
shows exactly the asked frame, needs no codec, and is its own contact strip where scripts are off.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

COLUMNS = 10
"""Frames per line of the sheet."""
GAP = 2
"""Transparent pixels between frames."""
MAX_SIDE = 16_383
"""Pixels; of the WebP format."""


@dataclass(frozen=True)
class VideoRow:
    """Clips of the same length shown side by side, in step.

    A panel whose name begins with "dreamt" is the model's: its frames from `num_context` on are
    marked as dreamt, those before as given.
    """

    name: str
    panels: dict[str, UInt8[np.ndarray, "t h w 3"]]
    """Name ("real", "reconstructed", "dreamt", "left, dreamt" ...) -> RGB frames."""
    caption: str = ""
    num_context: int = 0
    """Frames that the model was given."""
    fps: int | float = 5.0
    section: str = "Dreams"
    """Rows of one section stand together and share a player."""

    def __post_init__(self) -> None:
        shapes = {name: frames.shape for name, frames in self.panels.items()}
        if not shapes or any(len(s) != 4 or s[-1] != 3 or 0 in s for s in shapes.values()):
            raise ValueError(
                f"{self.name}: expected panels of frames (t, h, w, 3) that are not empty, "
                f"found {shapes}."
            )
        if any(frames.dtype != np.uint8 for frames in self.panels.values()):
            raise ValueError(f"{self.name}: expected uint8 frames, RGB in 0..255.")
        if len({shape[0] for shape in shapes.values()}) > 1:
            raise ValueError(f"{self.name}: expected panels of one length, found {shapes}.")
        if not self.fps > 0:
            raise ValueError(f"{self.name}: expected fps above 0, found {self.fps}.")

    @property
    def num_frames(self) -> int:
        return next(iter(self.panels.values())).shape[0]


@dataclass(frozen=True)
class Sheet:
    """All frames of a clip in one WebP image, in reading order."""

    webp: bytes = field(repr=False)
    columns: int
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        return "data:image/webp;base64," + base64.b64encode(self.webp).decode("ascii")


def encode_sheet(frames: UInt8[np.ndarray, "t h w 3"], quality: int | None = None) -> Sheet:
    """Lays frames out in lines of `COLUMNS` and encodes them.

    Args:
        frames: RGB.
        quality: of lossy WebP, 1 to 100; None = lossless.

    Raises:
        ValueError: too large for one image.
    """
    import cv2

    t, h, w, _ = frames.shape
    columns = min(t, COLUMNS)
    lines = -(-t // columns)
    height, width = lines * (h + GAP) - GAP, columns * (w + GAP) - GAP
    if max(height, width) > MAX_SIDE:
        raise ValueError(
            f"{t} frames of {w}x{h} need an image of {width}x{height} pixels, at most {MAX_SIDE} "
            "are possible: show fewer or smaller frames."
        )
    sheet = np.zeros((height, width, 4), dtype=np.uint8)
    for index, frame in enumerate(frames):
        top, left = index // columns * (h + GAP), index % columns * (w + GAP)
        sheet[top : top + h, left : left + w, :3] = frame[..., ::-1]
        sheet[top : top + h, left : left + w, 3] = 255
    done, encoded = cv2.imencode(
        ".webp", sheet, [cv2.IMWRITE_WEBP_QUALITY, 101 if quality is None else quality]
    )
    if not done:
        raise ValueError("Expected OpenCV to write WebP, it did not: reinstall opencv.")
    return Sheet(encoded.tobytes(), columns, w, h)


def encode_rows(rows: list[VideoRow], max_bytes: int) -> tuple[list[dict[str, Sheet]], int | None]:
    """Sheets of all panels of all rows, lossless if they fit into `max_bytes` together, else at
    the highest of a few qualities that fits (or the lowest).

    Returns:
        One dict per row, and the quality used (None = lossless).
    """
    encoded: list[dict[str, Sheet]] = []
    quality: int | None = None
    for quality in (None, 92, 80, 65):
        encoded = [
            {name: encode_sheet(frames, quality) for name, frames in row.panels.items()}
            for row in rows
        ]
        if sum(len(sheet.webp) for row in encoded for sheet in row.values()) <= max_bytes:
            break
    return encoded, quality
