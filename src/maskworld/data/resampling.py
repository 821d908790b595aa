"""Recordings at another frame rate, by time stamp: 8 Hz from 10 or 12 Hz.

Cameras drift and drop frames, so "every k-th frame" is not evenly spaced, nor gives 8 Hz from 12.
Here every wanted moment takes the recorded frame nearest in time; where none is near enough the
clip is cut. ReWorld trains on nuScenes (12 Hz) and nuPlan (10 Hz) at 8 Hz without saying how;
nearest frames by time stamp are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from maskworld.data.episodes import Recent, Source
from maskworld.types import PlanSample


def resample_frames(
    time: Shaped[np.ndarray, " n"], fps: float | int, *, tolerance: float | int | None = None
) -> list[Int[np.ndarray, " _"]]:
    """Runs of source indices whose frames lie nearest to a clock of `fps`.

    Every run starts at a recorded frame; frame k of a run is the one nearest to k / fps after its
    start, the earlier of two as near. A run ends where no frame lies within `tolerance`, or the
    nearest was taken already, and the next begins with the frame after that moment.

    Args:
        time: increasing stamps in seconds.
        tolerance: seconds that a frame may be off; None = 0.55 of the median step, which is half a
            step and a little for jitter (ours).

    Raises:
        ValueError: stamps do not increase, or the recording is slower than `fps` by over 5 %, so
            that frames would be shown twice.
    """
    if not len(time):
        return []
    steps = np.diff(time)
    if (steps <= 0).any():
        raise ValueError(
            f"Expected increasing time stamps, found {time[int(np.argmin(steps)) + 1]} after "
            f"{time[int(np.argmin(steps))]}: sort the frames and drop repeated ones."
        )
    step = float(np.median(steps)) if len(steps) else 1 / fps
    if step > 1.05 / fps:
        raise ValueError(
            f"Expected a recording of {fps:g} Hz or more, found {1 / step:.2f} Hz: ask for at most "
            "that rate, frames are not invented."
        )
    nearby = 0.55 * step if tolerance is None else tolerance
    runs: list[np.ndarray] = []
    start = 0
    while start < len(time):
        run = [start]
        while True:
            wanted = time[start] + len(run) / fps
            right = int(np.searchsorted(time, wanted))
            around = [i for i in (right - 1, right) if i < len(time)]
            nearest = min(around, key=lambda i: (round(abs(time[i] - wanted), 5), i))
            if nearest == run[-1] or abs(time[nearest] - wanted) > nearby + 1e-9:
                break
            run.append(nearest)
        runs.append(np.array(run))
        if wanted > time[-1]:
            break
        start = int(np.searchsorted(time, wanted))
    return runs


class ResampledSource:
    """The episodes of a source with time stamps at another frame rate.

    Args:
        source: its episodes have `timestamps` in microseconds, and actions that are rates (speed,
            yaw rate): a resampled row is their mean over the time since the frame before.
        tolerance: see `resample_frames`.
    """

    def __init__(self, source: Source, fps: float | int, tolerance: float | None = None) -> None:
        self.source, self.fps, self.tolerance = source, float(fps), tolerance
        self.name = source.name
        self._recent: Recent[int, ResampledEpisode] = Recent(size=4)

    def __len__(self) -> int:
        return len(self.source)

    def episode(self, index: int) -> ResampledEpisode:
        return self._recent.get(
            index, lambda: ResampledEpisode(self.source.episode(index), self.fps, self.tolerance)
        )


class ResampledEpisode:
    """An episode shown at `fps`; its segments end where the recording has no frame in time."""

    def __init__(self, episode: Any, fps: float | int, tolerance: float | None = None) -> None:
        if not hasattr(episode, "timestamps"):
            raise ValueError(
                "Only recordings with time stamps can be resampled (nuScenes, nuPlan, OpenScene): "
                "use a frame stride for those with a constant frame rate."
            )
        self._episode, self.fps, self.caption = episode, float(fps), episode.caption
        seconds = (episode.timestamps - episode.timestamps[0]) / 1e6
        runs = [
            run + begin
            for begin, end in episode.segments
            for run in resample_frames(seconds[begin:end], fps, tolerance=tolerance)
        ]
        ends = np.cumsum([len(run) for run in runs])
        self.segments: Sequence[tuple[int, int]] = [
            (int(end) - len(run), int(end)) for end, run in zip(ends, runs)
        ]
        self.source_indices = np.concatenate(runs)
        """For every frame, its number in the recording."""
        self.timestamps = episode.timestamps[self.source_indices]
        self.num_frames = len(self.source_indices)
        self._seconds = seconds

    @cached_property
    def actions(self) -> Float[np.ndarray, "t a"] | None:
        """Mean rates over the time since the frame before; the first row of a segment is the step
        into its source frame."""
        rows = self._episode.actions
        if rows is None:
            return None
        result = rows[self.source_indices].copy()
        durations = np.diff(self._seconds, prepend=self._seconds[0])
        for begin, end in self.segments:
            for frame in range(begin + 1, end):
                steps = slice(self.source_indices[frame - 1] + 1, self.source_indices[frame] + 1)
                result[frame] = np.average(rows[steps], axis=0, weights=durations[steps])
        return result

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self._episode.read([int(self.source_indices[i]) for i in indices])

    def read_labels(self, indices: Sequence[int]) -> np.ndarray | None:
        return self._episode.read_labels([int(self.source_indices[i]) for i in indices])

    def plan_at(self, frame: int) -> PlanSample:
        """The plan sample at frame `frame`, by the time stamps of the recording."""
        return self._episode.plan_at(int(self.source_indices[frame]))
