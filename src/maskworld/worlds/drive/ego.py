"""The ego: a unicycle at the rear axle whose action (speed, yaw rate) is held for a step."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

LENGTH, WIDTH = 4.6, 1.9
"""Metres."""
REAR_OVERHANG = 0.9
"""From the rear axle to the rear bumper, metres."""
MAX_SPEED, MAX_YAW_RATE = 40.0, 1.5
"""Limits of an action, m/s and rad/s."""


def centre(pose: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 2"]:
    """The middle of the ego's box; the pose is at the rear axle."""
    ahead = LENGTH / 2 - REAR_OVERHANG
    return pose[:2] + ahead * np.array([np.cos(pose[2]), np.sin(pose[2])])


def step_pose(
    pose: Float[np.ndarray, " 3"], action: Float[np.ndarray, " 2"], duration: float
) -> Float[np.ndarray, " 3"]:
    """Drives an arc: exact integration of constant speed and yaw rate for `duration` seconds."""
    speed, yaw_rate = float(action[0]), float(action[1])
    turn = yaw_rate * duration
    # The chord of an arc of angle `turn` points along half of it; np.sinc is sin(pi x) / (pi x).
    chord = speed * duration * np.sinc(turn / (2 * np.pi))
    middle = pose[2] + turn / 2
    return pose + np.array([chord * np.cos(middle), chord * np.sin(middle), turn])


def rollout_poses(
    pose: Float[np.ndarray, " 3"], actions: Float[np.ndarray, "n 2"], fps: float | int
) -> Float[np.ndarray, "m 3"]:
    """The `n + 1` poses from `pose` on; `actions[i]` (m/s, rad/s) leads to pose `i + 1`."""
    poses = [np.asarray(pose, dtype=np.float64)]
    for action in actions:
        poses.append(step_pose(poses[-1], action, 1.0 / fps))
    return np.stack(poses)


def actions_of(poses: Float[np.ndarray, "m 3"], fps: float | int) -> Float[np.ndarray, "n 2"]:
    """The actions that lead from each pose to the next, the inverse of `rollout_poses`.

    A turn of less than pi per step is assumed; sideways motion, which a unicycle lacks, is lost.
    """
    turn = np.diff(poses[:, 2])
    delta = np.diff(poses[:, :2], axis=0)
    middle = poses[:-1, 2] + turn / 2
    chord = delta[:, 0] * np.cos(middle) + delta[:, 1] * np.sin(middle)
    return np.stack([chord / np.sinc(turn / (2 * np.pi)), turn], axis=1) * fps


def to_local(
    poses: Float[np.ndarray, "n 3"], origin: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "n 3"]:
    """World poses in the ego frame of `origin`; headings are differences, never wrapped."""
    c, s = np.cos(origin[2]), np.sin(origin[2])
    x, y, turn = (poses - origin).T
    return np.stack([c * x + s * y, -s * x + c * y, turn], axis=1)


def to_world(
    poses: Float[np.ndarray, "n 3"], origin: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "n 3"]:
    """Poses in the ego frame of `origin` in the world's frame, the inverse of `to_local`."""
    c, s = np.cos(origin[2]), np.sin(origin[2])
    x, y, turn = poses.T
    return np.stack([c * x - s * y, s * x + c * y, turn], axis=1) + origin


def ghost_profile(
    rng: np.random.Generator, num_steps: int, speed: float, fps: float | int, max_yaw_rate: float
) -> Float[np.ndarray, "n 2"]:
    """Smooth random driving: speed from `speed` m/s, yaw rate up to `max_yaw_rate` rad/s.

    The yaw rate moves between random values a second apart, so the sign may change within a clip.
    """
    time = np.arange(num_steps) / fps
    knots = np.arange(int(np.ceil(num_steps / fps)) + 2)
    yaw = np.interp(time, knots, rng.uniform(-max_yaw_rate, max_yaw_rate, len(knots)))
    target = float(np.clip(speed, 3.0, 22.0)) * rng.uniform(0.6, 1.3)
    start = max(speed, 2.0) * rng.uniform(0.8, 1.2)
    speeds = target + (start - target) * np.exp(-time / 1.5)
    return np.stack([speeds, yaw], axis=1)
