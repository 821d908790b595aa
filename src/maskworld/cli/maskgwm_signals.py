"""Recorded actions as the signals of MaskGWM: columns by name, or computed from where the car was.

What a recording does not tell is NaN, which the model reads as "not known".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.conditioning.signals import Signal
from maskworld.data.dataset import ClipDataset
from maskworld.data.trajectories import UNKNOWN, TimedPoses, UncutMoment, to_ego_frame
from maskworld.types import Clip

AHEAD = np.array([0.5, 1.0, 1.5, 2.0])
"""Seconds: where four waypoints (as in Vista) and four speeds (ours) are read."""


def signal_columns(signals: Sequence[Signal]) -> list[str]:
    """A name per column: "speed" for a signal of one number, else "waypoints_0", ..."""
    return [
        signal.name if signal.size == 1 else f"{signal.name}_{i}"
        for signal in signals
        for i in range(signal.size)
    ]


def source_columns(source: Any) -> list[str] | None:
    """Names of a source's actions, "action_0", ... where they have none; None without actions."""
    if isinstance(source, list) or not hasattr(source, "action_names"):
        return None
    names = source.action_names
    return None if names is None else [str(name).lower().replace(" ", "_") for name in names]


def are_unnamed(columns: Sequence[str]) -> bool:
    """Whether the columns are only numbered."""
    return list(columns) == [f"action_{i}" for i in range(len(columns))]


def column_places(columns: Sequence[str], signals: Sequence[Signal]) -> list[int | None] | None:
    """Where each of the signals' columns stands among a recording's; None = not there.

    Columns without names are taken as they stand if their number is right. A name fits exactly, or
    as the only one that holds it ("speed_mps").

    Returns None where nothing fits.
    """
    wanted = signal_columns(signals)
    if are_unnamed(columns):
        return list(range(len(columns))) if len(columns) == len(wanted) else None
    places = [_place(name, columns) for name in wanted]
    return None if all(place is None for place in places) else places


def _place(name: str, columns: Sequence[str]) -> int | None:
    if name in columns:
        return list(columns).index(name)
    holding = [i for i, column in enumerate(columns) if name in column]
    return holding[0] if len(holding) == 1 else None


def fitted_signals(columns: Sequence[str], rows: Float[np.ndarray, "n a"]) -> tuple[Signal, ...]:
    """A signal for each column of a recording, divided by its standard deviation."""
    spread = np.nanstd(rows, axis=0)
    return tuple(
        Signal(name, 1, float(s) if np.isfinite(s) and s > 1e-6 else 1.0)
        for name, s in zip(columns, spread, strict=True)
    )


@dataclass(frozen=True)
class TakeColumns:
    """A transform of clips: these columns of the actions, in this order."""

    places: Sequence[int | None]

    def __call__(self, clip: Clip, generator: torch.Generator) -> Clip:
        if clip.actions is None:
            return clip
        unknown = torch.full_like(clip.actions[:, :1], torch.nan)
        taken = [unknown if p is None else clip.actions[:, p : p + 1] for p in self.places]
        return replace(clip, actions=torch.cat(taken, dim=1))


class DriveSignals:
    """A transform of clips: command, waypoints, speed and yaw rate from the poses of the car at the
    clip's moments. Steering and goal points are in no pose, so they are NaN.

    Waypoints are x, y (m, ego frame) 0.5, 1, 1.5 and 2 s ahead; a speed of four numbers is that at
    these times. What lies past the end of the drive is NaN.

    Args:
        dataset: the windows, of these drives or of them resampled.
        drives: episodes with `poses`.
    """

    def __init__(self, dataset: ClipDataset, drives: Any, signals: Sequence[Signal]) -> None:
        self._index, self._source = dataset.index, dataset.source
        self._drives, self._signals = drives, list(signals)

    def __call__(self, clip: Clip, generator: torch.Generator) -> Clip:
        num_frames = self._index.num_frames
        stride = self._index.frame_stride
        frames = [clip.start + k * stride for k in range(num_frames)]
        shown: Any = self._source.episode(clip.episode)
        drive: Any = self._drives.episode(clip.episode)
        poses: TimedPoses = drive.poses
        stamps = getattr(shown, "timestamps", None)
        times = poses.time[frames] if stamps is None else stamps[frames] / 1e6
        columns = [self._column(signal, poses, times, shown, frames) for signal in self._signals]
        rows = np.concatenate(columns, axis=1).astype(np.float32)
        return replace(clip, actions=torch.from_numpy(rows))

    def _column(
        self,
        signal: Signal,
        poses: TimedPoses,
        times: Float[np.ndarray, " t"],
        episode: Any,
        frames: Sequence[int],
    ) -> Float[np.ndarray, "t s"]:
        unknown = np.full((len(times), signal.size), np.nan)
        if (signal.name, signal.size) == ("waypoints", 2 * len(AHEAD)):
            return np.stack([_waypoints(poses, float(time)) for time in times])
        if (signal.name, signal.size) == ("speed", 1):
            return _speeds(poses, times)[:, None]
        if (signal.name, signal.size) == ("speed", len(AHEAD)):
            return np.stack([_speeds(poses, time + AHEAD) for time in times])
        if (signal.name, signal.size) == ("yaw_rate", 1):
            return _yaw_rates(poses, times)[:, None]
        if (signal.name, signal.size) == ("command", 1) and hasattr(episode, "plan_at"):
            return np.array([[_command(episode, frame)] for frame in frames])
        return unknown


def _waypoints(poses: TimedPoses, time: float) -> Float[np.ndarray, " k"]:
    ahead = to_ego_frame(poses.at(time + AHEAD), poses.at(np.array([time]))[0])[:, :2]
    return _known(poses, time + AHEAD, ahead).reshape(-1)


def _speeds(poses: TimedPoses, times: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Metres per second over the 0.2 s around each time."""
    before, after = poses.at(times - 0.1), poses.at(times + 0.1)
    span = np.minimum(times + 0.1, poses.time[-1]) - np.maximum(times - 0.1, poses.time[0])
    distance = np.hypot(*(after - before)[:, :2].T)
    return _known(poses, times, distance / np.maximum(span, 1e-6))


def _yaw_rates(poses: TimedPoses, times: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    before, after = poses.at(times - 0.1), poses.at(times + 0.1)
    span = np.minimum(times + 0.1, poses.time[-1]) - np.maximum(times - 0.1, poses.time[0])
    return _known(poses, times, (after - before)[:, 2] / np.maximum(span, 1e-6))


def _known(poses: TimedPoses, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """NaN past the end of the drive."""
    return np.where(
        (times <= poses.time[-1] + 1e-6).reshape(-1, *[1] * (values.ndim - 1)), values, np.nan
    )


def _command(episode: Any, frame: int) -> float:
    """NaN where no plan can be cut or the route is not known."""
    try:
        command = episode.plan_at(frame).command
    except UncutMoment:
        return float("nan")
    return float("nan") if command == UNKNOWN else float(command)


def as_prompt(
    rows: Float[np.ndarray, "t a"], num_given: int, num_frames: int
) -> Float[Tensor, "1 n a"]:
    """Rows of a whole video, or of its future alone, as one row per frame; NaN = not known."""
    found = torch.from_numpy(np.asarray(rows, dtype=np.float32))
    if len(found) == num_frames - num_given:
        found = torch.cat([torch.full((num_given, found.shape[1]), torch.nan), found])
    return found[None]
