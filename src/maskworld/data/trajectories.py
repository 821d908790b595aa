"""Timed poses of a driven car to plan samples: ego frame, waypoints by time stamp, ego status.

Every reader of drives (nuScenes, nuPlan, OpenScene, comma2k19) ends here, so that one place decides
what a waypoint is: the pose *interpolated at* now + 0.5 s, ..., now + 4 s, never the n-th row. The
ego status is what the car can know now: recorded velocities, or a fit to past poses alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped

from maskworld.types import PlanSample

NUM_WAYPOINTS, WAYPOINT_INTERVAL = 8, 0.5
"""4 s at 2 Hz, NAVSIM's plan (DriveLaW, ReWorld)."""
POSE_GAP = 0.3
"""Seconds between poses that may be interpolated; longer ones are refused (ours)."""
STATUS_WINDOW = 0.5
"""Seconds of the past that an ego status is fitted to where none is recorded (ours)."""
LEFT, STRAIGHT, RIGHT, UNKNOWN = 0, 1, 2, 3
"""Commands in the order of `PlanSample.command` and of NAVSIM's one-hot."""
ROUTE_AHEAD, ROUTE_LATERAL = 20.0, 2.0
"""Metres ahead on the route, and to its side, that make a left or right command (OpenScene,
process_data/helpers/driving_command.py)."""
_ROUNDING = 1e-6
"""Seconds; microsecond stamps lose less than this as float64."""


class UncutMoment(ValueError):
    """A moment that gives no plan sample; `reason` is its kind in a few words, for counting."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class TimedPoses:
    """Where a car was: one drive, in time.

    Raises:
        ValueError: lengths differ, values are not finite, or stamps do not increase; names the row.
    """

    time: Float[np.ndarray, " n"]
    """Seconds, any origin, strictly increasing, float64."""
    pose: Float[np.ndarray, "n 3"]
    """x, y (m) in a fixed frame and heading (rad, counter-clockwise), of the rear axle."""
    velocity: Float[np.ndarray, "n 2"] | None = None
    """vx, vy (m/s) in the ego frame of that moment; None = not recorded."""
    acceleration: Float[np.ndarray, "n 2"] | None = None
    """ax, ay (m/s^2) in the ego frame of that moment, as an inertial sensor feels it (ay holds the
    centripetal part); used beside a velocity only. None = not recorded."""
    name: str = "the drive"
    """Says in messages which drive it is."""

    def __post_init__(self) -> None:
        fields = {"time": self.time, "pose": self.pose}
        fields |= {"velocity": self.velocity} if self.velocity is not None else {}
        fields |= {"acceleration": self.acceleration} if self.acceleration is not None else {}
        for field, rows in fields.items():
            if len(rows) != len(self.time) or len(rows) < 2:
                raise ValueError(
                    f"{self.name}: expected at least 2 poses and as many rows of {field}, found "
                    f"{len(self.time)} stamps and {len(rows)} rows: read the recording again."
                )
            finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"{self.name}: {field} of row {int(np.argmin(finite))} is NaN or infinite: "
                    "drop the row or mend the recording."
                )
        steps = np.diff(self.time)
        if (steps <= 0).any():
            row = int(np.argmax(steps <= 0))
            raise ValueError(
                f"{self.name}: expected increasing time stamps, found {self.time[row + 1]} s in "
                f"row {row + 1} after {self.time[row]} s: sort the rows and drop repeated ones."
            )

    def __len__(self) -> int:
        return len(self.time)

    def at(self, moments: Shaped[np.ndarray, " k"]) -> Float[np.ndarray, "k 3"]:
        """Poses interpolated at `moments` (seconds), headings unwrapped over the whole drive.

        The poses beside every moment must be near enough: see `plan_sample`, which checks that.
        """
        return _interpolated(moments, self.time, self._unwrapped())

    def _unwrapped(self) -> Float[np.ndarray, "n 3"]:
        return np.column_stack([self.pose[:, :2], np.unwrap(self.pose[:, 2])])


@dataclass(frozen=True)
class PlanSamples:
    """What `plan_samples` cut, and what it left out."""

    samples: list[PlanSample]
    moments: Float[np.ndarray, " k"]
    """The time stamp of every sample, seconds."""
    skipped: dict[str, int]
    """How many moments were left out, by reason."""


def plan_sample(
    poses: TimedPoses,
    now: float | int,
    *,
    num_waypoints: int = NUM_WAYPOINTS,
    interval: float | int = WAYPOINT_INTERVAL,
    max_gap: float | int = POSE_GAP,
    window: float | int = STATUS_WINDOW,
    command: int = UNKNOWN,
    token: str = "",
) -> PlanSample:
    """The planner's view at `now`, with the driven future as its trajectory.

    Args:
        now: time stamp in seconds; need not be one of `poses`.
        interval: seconds between waypoints; waypoint l is at `now + l * interval`, l from 1.
        max_gap: longest pause between poses, from the last one before `now` to the last waypoint.
        window: see `ego_status`.
        command: from the route where there is one (`command_from_route`), else `UNKNOWN`.

    Raises:
        UncutMoment: the drive begins after `now`, ends before the last waypoint, or pauses; or
            nothing is recorded that an ego status could be made of.
    """
    moments = now + interval * np.arange(num_waypoints + 1)
    _check_span(poses, float(moments[0]), float(moments[-1]), max_gap)
    ahead = poses.at(moments)
    trajectory = to_ego_frame(ahead[1:], ahead[0])
    return PlanSample(
        ego=torch.from_numpy(ego_status(poses, now, window=window, max_gap=max_gap)).float(),
        command=command,
        trajectory=torch.from_numpy(trajectory).float(),
        token=token,
    )


def plan_samples(
    poses: TimedPoses,
    moments: Sequence[float | int] | Shaped[np.ndarray, " k"],
    *,
    commands: Sequence[int] | None = None,
    tokens: Sequence[str] | None = None,
    skip: bool = False,
    num_waypoints: int = NUM_WAYPOINTS,
    interval: float | int = WAYPOINT_INTERVAL,
    max_gap: float | int = POSE_GAP,
) -> PlanSamples:
    """A plan sample at each of `moments`.

    Args:
        skip: leave out moments without a whole future or with gaps, and count them by reason;
            without it the first one raises.
        commands, tokens: one per moment; None = unknown, and no name.
    """
    found: list[PlanSample] = []
    kept: list[float] = []
    skipped: Counter[str] = Counter()
    for i, now in enumerate(moments):
        try:
            sample = plan_sample(
                poses,
                float(now),
                num_waypoints=num_waypoints,
                interval=interval,
                max_gap=max_gap,
                command=UNKNOWN if commands is None else int(commands[i]),
                token="" if tokens is None else tokens[i],
            )
        except UncutMoment as error:
            if not skip:
                raise
            skipped[error.reason] += 1
            continue
        found.append(sample)
        kept.append(float(now))
    return PlanSamples(found, np.array(kept, dtype=np.float64), dict(skipped))


def ego_status(
    poses: TimedPoses,
    now: float | int,
    *,
    window: float | int = STATUS_WINDOW,
    max_gap: float | int = POSE_GAP,
) -> Float[np.ndarray, " 4"]:
    """vx, vy (m/s), ax, ay (m/s^2) at `now` in the ego frame of `now`.

    What is recorded is interpolated. What is not comes from the last `window` seconds, never from
    the future, which a planner must not see: acceleration from a line through the velocities, both
    from a parabola through the positions. Differentiating poses twice is noisy: prefer recordings.

    Raises:
        UncutMoment: fewer than 3 poses, or less than half of `window`, to fit to.
    """
    moment = np.array([now], dtype=np.float64)
    if poses.velocity is not None and poses.acceleration is not None:
        _check_span(poses, float(now), float(now), max_gap)
        rows = np.concatenate([poses.velocity, poses.acceleration], axis=1)
        return _interpolated(moment, poses.time, rows)[0]
    origin = poses.at(moment)[0]
    is_past = (poses.time >= now - window - _ROUNDING) & (poses.time < now - _ROUNDING)
    past = np.append(poses.time[is_past], now)
    if len(past) < 3 or past[-1] - past[0] < window / 2:
        raise UncutMoment(
            "too little past",
            f"{poses.name}: expected 3 poses or more in the {window} s before {now} s to fit a "
            f"velocity to, found {len(past)} over {past[-1] - past[0]:.2f} s: start later, or give "
            "recorded velocities and accelerations.",
        )
    _check_span(poses, float(past[0]), float(now), max_gap)
    since = past - now
    if poses.velocity is None:
        fit = np.polynomial.polynomial.polyfit(since, poses.at(past)[:, :2], 2)
        return np.concatenate([_rotated(fit[1], -origin[2]), _rotated(2 * fit[2], -origin[2])])
    velocity = _interpolated(past, poses.time, poses.velocity)
    turned = np.stack([_rotated(v, h) for v, h in zip(velocity, poses.at(past)[:, 2] - origin[2])])
    fit = np.polynomial.polynomial.polyfit(since, turned, 1)
    return np.concatenate([velocity[-1], fit[1]])


def to_ego_frame(
    pose: Float[np.ndarray, "k 3"], origin: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "k 3"]:
    """Poses as seen from `origin`: x forward, y left, headings relative and not wrapped."""
    c, s = np.cos(origin[2]), np.sin(origin[2])
    dx, dy = pose[:, 0] - origin[0], pose[:, 1] - origin[1]
    return np.stack([c * dx + s * dy, c * dy - s * dx, pose[:, 2] - origin[2]], axis=1)


def from_ego_frame(
    pose: Float[np.ndarray, "k 3"], origin: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "k 3"]:
    """The inverse of `to_ego_frame`."""
    c, s = np.cos(origin[2]), np.sin(origin[2])
    x, y = pose[:, 0], pose[:, 1]
    return np.stack(
        [origin[0] + c * x - s * y, origin[1] + s * x + c * y, pose[:, 2] + origin[2]], 1
    )


def command_from_route(
    route: Float[np.ndarray, "m 2"],
    pose: Float[np.ndarray, " 3"],
    *,
    ahead: float | int = ROUTE_AHEAD,
    lateral: float | int = ROUTE_LATERAL,
) -> int:
    """Left, straight or right: to which side the planned route lies `ahead` metres further on.

    The side is measured in the frame of the route where the car is, so that standing across the
    lane is no command. Unknown where the route ends before, or lies over 10 m from the car (ours).

    Args:
        route: points in metres, in the order of driving, in the frame of `pose`.
    """
    steps = np.hypot(*np.diff(route, axis=0).T)
    points = route[np.concatenate([[True], steps > 0])]
    if len(points) < 2:
        return UNKNOWN
    along = np.concatenate([[0.0], np.cumsum(steps[steps > 0])])
    distance = np.hypot(*(points - pose[:2]).T)
    # Of a route that crosses itself, the branch that runs the way the car faces.
    edges = np.diff(points, axis=0)
    bearing = np.arctan2(edges[:, 1], edges[:, 0])
    is_against = np.cos(np.append(bearing, bearing[-1]) - pose[2]) < 0
    start = int(np.argmin(distance + 1e6 * is_against))
    if distance[start] > 10 or is_against[start] or along[start] + ahead > along[-1]:
        return UNKNOWN
    heading = bearing[min(start, len(bearing) - 1)]
    target = _interpolated(np.array([along[start] + ahead]), along, points)[0]
    side = _rotated(target - points[start], -heading)[1]
    return LEFT if side >= lateral else RIGHT if side <= -lateral else STRAIGHT


def speed_and_yaw_rate(
    time: Shaped[np.ndarray, " n"], pose: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 2"]:
    """The steps into every pose as actions: speed along the heading (m/s, negative backwards) and
    yaw rate (rad/s); row 0 repeats row 1. `time` in seconds."""
    if len(time) == 1:
        return np.zeros((1, 2), dtype=np.float32)
    seconds = np.diff(time)
    if (seconds <= 0).any():
        raise ValueError(f"Two frames of one time, or out of order: row {int(np.argmin(seconds))}.")
    x, y, heading = pose.T
    turned = (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi
    middle = heading[:-1] + turned / 2
    forward = np.diff(x) * np.cos(middle) + np.diff(y) * np.sin(middle)
    steps = np.stack([forward / seconds, turned / seconds], axis=1)
    return np.concatenate([steps[:1], steps]).astype(np.float32)


def headings(quaternion: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """Yaw (rad) of rotations (w, x, y, z) that turn the ego frame into a frame with z up."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _check_span(poses: TimedPoses, start: float, end: float, max_gap: float | int) -> None:
    """Raises unless poses without a long gap cover `start` to `end`."""
    first, last = float(poses.time[0]), float(poses.time[-1])
    if start < first - _ROUNDING or start > last + _ROUNDING:
        raise UncutMoment(
            "outside the drive",
            f"{poses.name} runs from {first} to {last} s, asked for {start} s.",
        )
    if end > last + _ROUNDING:
        raise UncutMoment(
            "future too short",
            f"{poses.name}: expected poses up to {end:.3f} s, found the last at {last:.3f} s: "
            "ask for earlier moments or fewer waypoints.",
        )
    low = max(int(np.searchsorted(poses.time, start + _ROUNDING, side="right")) - 1, 0)
    high = int(np.searchsorted(poses.time, end - _ROUNDING))
    gaps = np.diff(poses.time[low : high + 1])
    if len(gaps) and gaps.max() > max_gap + _ROUNDING:
        row = low + int(np.argmax(gaps))
        raise UncutMoment(
            "gap",
            f"{poses.name}: expected a pose every {max_gap} s or more often, found a gap of "
            f"{gaps.max():.3f} s after {poses.time[row]} s: choose moments away from it, or a "
            "larger max_gap if the recording is as coarse as that.",
        )


def _interpolated(
    at: Shaped[np.ndarray, " k"], time: Shaped[np.ndarray, " n"], rows: Shaped[np.ndarray, "n d"]
) -> Float[np.ndarray, "k d"]:
    return np.stack([np.interp(at, time, column) for column in rows.T], axis=1)


def _rotated(vector: Float[np.ndarray, " 2"], angle: float | int) -> Float[np.ndarray, " 2"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]])
