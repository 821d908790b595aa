"""What curation measures of a recording, in one pass at low resolution: cuts, motion, likeness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, UInt8

from maskworld.preparation.scene_cuts import THRESHOLD, SceneCuts

WIDTH = 160
"""Pixels across, for all measures (ours)."""
FLOW_HZ = 10.0
"""Motion is measured between frames about 0.1 s apart: between closer ones, slow motion drowns in
the noise of the flow (ours)."""
CHUNK = 64


@dataclass(frozen=True)
class Measures:
    """Of every frame of a recording."""

    scenes: list[tuple[int, int]]
    """Half-open ranges without a cut."""
    motion: Float[np.ndarray, " t"]
    """Mean length of the optical flow into the frame, in per cent of the width per second; NaN
    where it was not measured."""
    hashes: Bool[np.ndarray, "t 64"]
    """Difference hashes."""
    thumbnails: UInt8[np.ndarray, "t 8 8"]
    """Lightness."""


def measure(episode: Any, scene_threshold: float | None = THRESHOLD) -> Measures:
    """Reads all frames of the first view once. `scene_threshold` None = no search for cuts.

    Cuts that the recording already knows (its segments) stay cuts.
    """
    cuts = None if scene_threshold is None else SceneCuts(episode.fps, scene_threshold)
    step = max(1, round(episode.fps / FLOW_HZ))
    motion = np.full(episode.num_frames, np.nan)
    hashes, thumbnails = [], []
    before: tuple[int, np.ndarray] | None = None
    for start in range(0, episode.num_frames, CHUNK):
        indices = range(start, min(start + CHUNK, episode.num_frames))
        frames = _small(episode.read(indices)[0])
        if cuts is not None:
            cuts.update(frames)
        for index, frame in zip(indices, frames):
            grey = _grey(frame)
            hashes.append(difference_hash(grey))
            thumbnails.append(_resized(grey, 8, 8))
            if index % step == 0:
                if before is not None:
                    seconds = (index - before[0]) / episode.fps
                    moved = _flow_length(before[1], grey) / (grey.shape[1] * seconds)
                    motion[before[0] + 1 : index + 1] = 100 * moved
                before = (index, grey)
    found = [(0, episode.num_frames)] if cuts is None else cuts.scenes()
    scenes = _intersection(found, episode.segments)
    return Measures(scenes, motion, np.array(hashes), np.array(thumbnails))


def scene_motion(measures: Measures, start: int, stop: int) -> float:
    """The median over the frames of a scene; 0 where it is too short to tell. The flow into its
    first frames may come from another scene: they do not count."""
    values = measures.motion[start + 1 : stop]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else 0.0


def key_frames(start: int, stop: int, percentiles: Sequence[int] = (10, 50, 90)) -> list[int]:
    """The frames at these parts of a scene. Reference: WorldDreamer, section 4.1."""
    return [start + round(p / 100 * (stop - 1 - start)) for p in percentiles]


def difference_hash(grey: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, " 64"]:
    """Whether each of 8 x 8 places is darker than its right neighbour, 9 x 8 places in all."""
    small = _resized(grey, 8, 9)
    return (small[:, :-1] < small[:, 1:]).reshape(64)


def _small(frames: UInt8[np.ndarray, "n 3 h w"]) -> UInt8[np.ndarray, "n a b 3"]:
    images = rearrange(frames, "n c h w -> n h w c")
    height, width = images.shape[1:3]
    scaled = max(8, round(height * WIDTH / width))
    return np.stack([_resized(np.ascontiguousarray(i), scaled, WIDTH) for i in images])


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    import cv2

    method = cv2.INTER_AREA if image.shape[1] >= width else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def _grey(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    import cv2

    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def _flow_length(before: UInt8[np.ndarray, "h w"], after: UInt8[np.ndarray, "h w"]) -> float:
    """Mean length in pixels, by Farneback's method."""
    import cv2

    flow = cv2.calcOpticalFlowFarneback(
        before,
        after,
        None,  # type: ignore[call-overload]
        pyr_scale=0.5,
        levels=3,
        winsize=15,
        iterations=2,
        poly_n=5,
        poly_sigma=1.1,
        flags=0,
    )
    return float(np.linalg.norm(flow, axis=-1).mean())


def _intersection(
    scenes: Sequence[tuple[int, int]], segments: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    pairs = [(max(a, c), min(b, d)) for a, b in scenes for c, d in segments]
    return sorted(pair for pair in pairs if pair[0] < pair[1])
