"""Recordings as folders of numbered pictures, as OpenDV-2K is after its own preprocessing.

    ROOT/<channel>/<video>/000000110.jpg ...       each folder is one recording, 10 Hz
    ROOT/10hz_YouTube_*.json                       optional: captions of stretches of them

Annotations are lists of {"folder", "first_frame", "last_frame", "blip", "cmd"}; the caption is
"blip", and a folder with annotations becomes one episode per stretch.

Reference: OpenDriveLab/DriveAGI, opendv/README.md (the layout; `cmd` is not read).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.data.lerobot_schema import decode_image

FPS = 10.0
"""OpenDV-2K's."""
SUFFIXES = (".jpg", ".jpeg", ".png")
_NUMBER = re.compile(r"\d{6,}")
"""Names of frames: six digits or more, so that a folder of photos is not taken for a video."""


class FrameFolderSource:
    """Every folder of numbered pictures below `root` is one episode, by name.

    A missing number is a cut. One camera, no actions.

    Args:
        fps: of the pictures.

    Raises:
        ValueError: no such folders, or a damaged annotation file; names it.
    """

    action_names: list[str] | None = None

    def __init__(self, root: Path | str, *, fps: float | int = FPS) -> None:
        self.root, self.fps = Path(root), float(fps)
        self.name = self.root.resolve().name
        folders = frame_folders(self.root)
        if not folders:
            raise ValueError(
                f"Expected folders of numbered pictures (000000110.jpg, ...) in {self.root}, found "
                "none."
            )
        told = _read_annotations(self.root)
        self._episodes = [
            episode for folder in folders for episode in self._episodes_of(folder, told)
        ]

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, index: int) -> FrameEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"{self.name} has {len(self)} recordings, asked for number {index}.")
        return self._episodes[index]

    def _episodes_of(self, folder: Path, told: Mapping[Path, list[_Told]]) -> list[FrameEpisode]:
        files = _numbered(folder)
        parts = told.get(folder.resolve())
        if parts is None:
            return [FrameEpisode(files, self.fps, "")]
        found = []
        for part in parts:
            chosen = [p for p in files if part.first <= int(p.stem) <= part.last]
            if chosen:
                found.append(FrameEpisode(chosen, self.fps, part.caption))
        return found


class FrameEpisode:
    """Pictures in the order of their numbers; decoded only when read."""

    def __init__(self, files: Sequence[Path], fps: float, caption: str) -> None:
        self._files, self.fps, self.caption = list(files), fps, caption
        self.num_frames = len(self._files)
        numbers = [int(path.stem) for path in self._files]
        cuts = [i for i, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1]
        self.segments: Sequence[tuple[int, int]] = list(
            zip([0, *cuts], [*cuts, self.num_frames], strict=True)
        )
        self.actions: Float[np.ndarray, "t a"] | None = None
        self.attributes = {"folder": str(self._files[0].parent)}

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "1 n 3 h w"]:
        """RGB pictures.

        Raises:
            ValueError: a damaged one, or of another size than the others; names it.
        """
        images = [
            decode_image(self._files[i].read_bytes(), False, str(self._files[i])) for i in indices
        ]
        sizes = {image.shape: self._files[i] for image, i in zip(images, indices, strict=True)}
        if len(sizes) > 1:
            raise ValueError(
                "Expected pictures of one size in a recording, found "
                + ", ".join(f"{s[1]}x{s[0]} ({path})" for s, path in sizes.items())
                + ": extract the frames again."
            )
        return np.stack(images).transpose(0, 3, 1, 2)[None]

    def read_labels(self, indices: Sequence[int]) -> None:
        return None


@dataclass(frozen=True)
class _Told:
    first: int
    last: int
    caption: str


def frame_folders(root: Path) -> list[Path]:
    """Folders below `root`, itself left out, that hold two or more numbered pictures."""
    folders = sorted(p for p in root.rglob("*") if p.is_dir() and not p.name.startswith("."))
    return [folder for folder in folders if len(_numbered(folder)) > 1]


def _numbered(folder: Path) -> list[Path]:
    found = [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in SUFFIXES and _NUMBER.fullmatch(p.stem) is not None
    ]
    return sorted(found, key=lambda p: int(p.stem))


def _read_annotations(root: Path) -> dict[Path, list[_Told]]:
    """Stretches with a caption, by folder."""
    told: dict[Path, list[_Told]] = defaultdict(list)
    for path in sorted(root.glob("*.json")):
        try:
            rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            for row in rows:
                first, last = (Path(row[k]).stem for k in ("first_frame", "last_frame"))
                stretch = _Told(int(first), int(last), str(row.get("blip", "")))
                told[(root / row["folder"]).resolve()].append(stretch)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected OpenDV's annotations in {path}, a list of folder, first_frame, "
                f"last_frame and blip, found others ({error!r}): remove the file or mend it."
            ) from error
    return told
