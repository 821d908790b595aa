"""comma2k19 with pictures: segments whose video stands beside their poses.

    SEGMENT/video.mp4              20 Hz, frame k at frame_times[k]
    SEGMENT/global_pose/...        as `comma2k19.read_drive` reads it

The published video.hevc is a bare stream, in which no frame can be found by its time; put it into a
container once, without loss: `ffmpeg -framerate 20 -i video.hevc -c copy video.mp4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.data.episodes import Recent
from maskworld.data.sources.comma2k19 import read_drive
from maskworld.data.trajectories import TimedPoses, plan_sample, speed_and_yaw_rate
from maskworld.data.video_files import OpenVideos
from maskworld.types import PlanSample

FPS = 20.0
MAX_CUT = 0.15
"""Seconds between frames; a longer pause is a cut (ours)."""
SUFFIXES = (".mp4", ".mkv", ".mov")
MARKS = ("global_pose/frame_times", "global_pose_frame_times.npy")


def find_segments(root: Path) -> list[Path]:
    """Folders of segments below `root`, or `root` itself."""
    found = {path.parents[mark.count("/")] for mark in MARKS for path in root.rglob(mark)}
    return sorted(found)


class Comma2k19Source:
    """Every segment is one episode: a minute at 20 Hz. The command is unknown, there is no route.

    Raises:
        ValueError: no segment, or one without a video in a container.
    """

    name = "comma2k19"
    action_names = ("speed", "yaw_rate")
    fps = FPS

    def __init__(self, root: Path | str) -> None:
        self._segments = find_segments(Path(root))
        self._videos = OpenVideos()
        self._recent: Recent[int, Comma2k19Episode] = Recent(size=4)
        if not self._segments:
            raise ValueError(f"Expected segments of comma2k19 in {root}, found none.")
        self._files = [_video_of(segment) for segment in self._segments]

    def __len__(self) -> int:
        return len(self._segments)

    def episode(self, index: int) -> Comma2k19Episode:
        if not 0 <= index < len(self):
            raise ValueError(f"There are {len(self)} segments here, asked for number {index}.")
        return self._recent.get(
            index,
            lambda: Comma2k19Episode(self._segments[index], self._files[index], self._videos),
        )


class Comma2k19Episode:
    """One segment; frames are decoded only when read."""

    caption = ""
    fps = FPS

    def __init__(self, segment: Path, video: Path, videos: OpenVideos) -> None:
        self._segment, self._video, self._videos = segment, video, videos
        self.poses: TimedPoses = read_drive(segment).poses
        self.num_frames = len(self.poses)
        found = len(videos.open(video))
        if found != self.num_frames:
            raise ValueError(
                f"Expected a frame for each of the {self.num_frames} poses of {segment}, found "
                f"{found} in {video.name}: convert the whole video.hevc."
            )
        self.timestamps = np.round(self.poses.time * 1e6).astype(np.int64)
        self.attributes = {"segment": str(segment)}

    @cached_property
    def segments(self) -> list[tuple[int, int]]:
        """Half-open frame ranges without a pause."""
        cuts = (np.flatnonzero(np.diff(self.poses.time) > MAX_CUT) + 1).tolist()
        return list(pairwise([0, *cuts, self.num_frames]))

    @cached_property
    def actions(self) -> Float[np.ndarray, "t 2"]:
        """Speed along the heading (m/s) and yaw rate (rad/s) into every frame."""
        return speed_and_yaw_rate(self.poses.time, self.poses.pose)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "1 n c h w"]:
        """RGB pictures of the only camera."""
        frames = self._videos.open(self._video).read(list(indices))
        return rearrange(frames, "n h w c -> 1 n c h w")

    def read_labels(self, indices: Sequence[int]) -> None:
        return None

    def plan_at(self, frame: int) -> PlanSample:
        """The plan sample at frame `frame`, named by the segment and the frame.

        Raises:
            UncutMoment: the segment ends before the last waypoint, or has too little past.
        """
        token = f"{'/'.join(self._segment.parts[-2:])}, frame {frame}"
        return plan_sample(self.poses, float(self.poses.time[frame]), token=token)


def _video_of(segment: Path) -> Path:
    found = sorted(path for path in segment.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(found) != 1:
        raise ValueError(
            f"Expected one video ({', '.join(SUFFIXES)}) beside the poses of {segment}, found "
            f"{len(found)}: put the bare stream into a container with `ffmpeg -framerate 20 -i "
            "video.hevc -c copy video.mp4`."
        )
    return found[0]
