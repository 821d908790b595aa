"""A recorded drive as an episode: pictures on disk, stamped, and the poses of the car beside them.

What nuPlan and OpenScene have in common; nuScenes, which must match its cameras first, has an
episode of its own with the same attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, UInt8

from maskworld.data.lerobot_schema import decode_image
from maskworld.data.trajectories import (
    POSE_GAP,
    UNKNOWN,
    TimedPoses,
    plan_sample,
    speed_and_yaw_rate,
)
from maskworld.types import PlanSample


@dataclass(frozen=True)
class DriveEpisode:
    """One log; pictures are decoded only when read.

    Actions are speed (m/s, along the heading) and yaw rate (rad/s, counter-clockwise) between
    consecutive frames, from the poses; row 0 repeats row 1.
    """

    root: Path
    """The folder that `files` are below."""
    files: Sequence[tuple[str, ...]]
    """One picture per view, for every frame."""
    timestamps: Int[np.ndarray, " n"]
    """Microseconds, of every frame, on the clock of `poses`."""
    poses: TimedPoses
    """In seconds; may be denser than the frames, and must span them."""
    fps: float | int
    max_cut: float | int
    """Seconds between frames; a longer pause is a cut."""
    max_gap: float | int = POSE_GAP
    """Seconds between poses that plan samples may bridge."""
    commands: Sequence[int] = ()
    """One per frame; empty = unknown."""
    tokens: Sequence[str] = ()
    caption: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        return len(self.files)

    @cached_property
    def segments(self) -> list[tuple[int, int]]:
        """Half-open frame ranges without a pause."""
        steps = np.diff(self.timestamps) / 1e6
        cuts = [0, *(np.flatnonzero(steps > self.max_cut) + 1).tolist(), self.num_frames]
        return list(pairwise(cuts))

    @cached_property
    def actions(self) -> Float[np.ndarray, "t 2"]:
        return speed_and_yaw_rate(self._seconds, self.poses.at(self._seconds))

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n c h w"]:
        """RGB pictures of the views at one moment each."""
        frames = [[self._image(file) for file in self.files[i]] for i in indices]
        return rearrange(np.array(frames), "n v h w c -> v n c h w")

    def read_labels(self, indices: Sequence[int]) -> None:
        return None

    def plan_at(self, frame: int) -> PlanSample:
        """The plan sample at frame `frame`.

        Raises:
            UncutMoment: the drive ends before its last waypoint, or pauses.
        """
        return plan_sample(
            self.poses,
            float(self._seconds[frame]),
            max_gap=self.max_gap,
            command=self.commands[frame] if self.commands else UNKNOWN,
            token=self.tokens[frame] if self.tokens else "",
        )

    @cached_property
    def _seconds(self) -> Float[np.ndarray, " n"]:
        return self.timestamps / 1e6

    def _image(self, file: str) -> np.ndarray:
        path = self.root / file
        if not path.is_file():
            raise ValueError(
                f"{path} of {self.poses.name} is missing: extract the sensor archive with that log "
                "below the folder of sensors, or choose other logs."
            )
        return decode_image(path.read_bytes(), False, str(path))
