"""What one sample of a tar shard holds: a video or an image, its text, and a row of facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskworld.data.lerobot_schema import decode_image
from maskworld.data.video_files import VideoReader

VIDEO_KEYS = ("mp4", "webm", "mkv", "mov", "avi", "m4v", "gif")
IMAGE_KEYS = ("jpg", "jpeg", "png", "webp", "bmp")
CAPTION_KEYS = ("caption", "text", "TEXT", "title", "name")
"""Where the text stands in the JSON row if there is no .txt."""


@dataclass(frozen=True)
class TarSample:
    """The files of one key of a shard."""

    key: str
    shard: str
    suffix: str
    data: bytes
    caption: str
    row: Mapping[str, Any]

    @property
    def is_image(self) -> bool:
        return self.suffix in IMAGE_KEYS

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """RGB pixels. Raises ValueError naming shard and key."""
        return decode_image(self.data, False, self.where)

    @property
    def where(self) -> str:
        """For messages: the shard and the key."""
        return f"{self.shard}: sample {self.key!r}"


def parse_sample(files: Mapping[str, Any]) -> TarSample:
    """The parts of a webdataset sample (`__key__`, `__url__`, suffix -> bytes).

    Raises:
        ValueError: neither a video nor an image in it, or text and JSON that are neither.
    """
    key, shard = str(files["__key__"]), str(files["__url__"])
    where = f"{shard}: sample {key!r}"
    suffixes = [s for s in (*VIDEO_KEYS, *IMAGE_KEYS) if s in files]
    if not suffixes:
        found = sorted(s for s in files if not s.startswith("__"))
        raise ValueError(
            f"{where} holds {found}: expected a video ({', '.join(VIDEO_KEYS)}) or an image "
            f"({', '.join(IMAGE_KEYS)})."
        )
    try:
        row = json.loads(files["json"]) if "json" in files else {}
        text = files["txt"].decode("utf-8") if "txt" in files else None
    except ValueError as error:  # of JSON and of UTF-8 alike
        raise ValueError(f"{where}: its .json or .txt cannot be read ({error}).") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(row).__name__}.")
    if text is None:
        text = next((str(row[k]) for k in CAPTION_KEYS if row.get(k)), "")
    data = files[suffixes[0]]
    return TarSample(key, shard, suffixes[0], data, " ".join(text.split()), row)


class SampleVideo:
    """The video of a sample, on disk while it is read: a decoder needs to seek.

    Raises:
        ValueError: it cannot be decoded; names shard and key.
    """

    def __init__(self, sample: TarSample) -> None:
        self._sample = sample
        self._folder = TemporaryDirectory(prefix="maskworld-")
        path = Path(self._folder.name) / f"video.{sample.suffix}"
        path.write_bytes(sample.data)
        try:
            self._reader = VideoReader(path)
        except ValueError as error:
            self._folder.cleanup()
            raise self._named(error) from error
        self.num_frames, self.fps = len(self._reader), self._reader.index.fps

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "n h w 3"]:
        try:
            return self._reader.read(indices)
        except ValueError as error:
            raise self._named(error) from error

    def __enter__(self) -> SampleVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._folder.cleanup()

    def _named(self, error: ValueError) -> ValueError:
        return ValueError(f"{self._sample.where}: {error}")
