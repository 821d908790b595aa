"""Scene cuts, by PySceneDetect's content detector."""

from __future__ import annotations

from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

THRESHOLD = 27.0
"""PySceneDetect's own: mean change of hue, saturation and lightness, of 255."""


class SceneCuts:
    """Frames in order to the frames at which a new scene begins.

    Every frame whose change is above the threshold is a cut, also within the first moments of a
    recording and in a flash: no window may cross one. PySceneDetect's shortest scene, which hides
    such cuts, is off.

    Reference: https://www.scenedetect.com, ContentDetector.
    """

    def __init__(self, fps: float, threshold: float = THRESHOLD) -> None:
        from scenedetect import ContentDetector

        self._fps, self._count = fps, 0
        self._detector: Any = ContentDetector(threshold=threshold, min_scene_len=0)
        self._cuts: list[int] = []

    def update(self, frames: UInt8[ndarray, "n h w 3"]) -> None:
        """Takes the next RGB frames."""
        import cv2
        from scenedetect import FrameTimecode

        for frame in frames:
            time = FrameTimecode(self._count, fps=self._fps)
            bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
            self._cuts += [cut.frame_num for cut in self._detector.process_frame(time, bgr)]
            self._count += 1

    def scenes(self) -> list[tuple[int, int]]:
        """Half-open ranges that cover all frames so far."""
        starts = sorted({0, *self._cuts} & set(range(self._count)))
        return list(zip(starts, [*starts[1:], self._count]))
