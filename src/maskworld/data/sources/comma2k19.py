"""comma2k19: real drives on a highway as timed poses, from their NumPy arrays.

    SEGMENT/global_pose/frame_{times,positions,orientations,velocities}
    SEGMENT/processed_log/CAN/{speed,steering_angle}/{t,value}

or the same arrays in one folder, their paths joined by underscores and with the suffix .npy
(`global_pose_frame_times.npy`, `processed_log_CAN_speed_t.npy`).

What a user must know:

- Positions and velocities are ECEF, in metres; they are laid on the plane that touches the
  ellipsoid at the first position (x east, y north). A minute of driving stays within 2 km, where
  the plane is within 0.3 m of the ground.
- Orientations (w, x, y, z) turn the device (x forward, y right, z down) to ECEF. Measured on the
  published example: turned so, the velocity is forward to within 4 degrees; the other way round
  it is not, though the data set's page words it that way.
- The device is glued behind the windscreen by hand. Its yaw against the car is estimated as the
  median angle between its forward axis and the velocity where the car is faster than 5 m/s (both
  ours) and taken out; `mount_yaw` holds it.
- Poses are those of the camera. How far it is ahead of the rear axle is not published:
  `rear_axle_offset` moves them where you know it.
- There is no route, so the command is unknown (3).

Reference: Schafer et al., A Commute in Data: The comma2k19 Dataset, arXiv 1812.05752.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from maskworld.data.trajectories import TimedPoses

_AXES = np.array([6378137.0, 6378137.0, 6356752.314245])
"""Semi-axes of the WGS 84 ellipsoid, metres."""
_FAST = 5.0


@dataclass(frozen=True)
class CommaDrive:
    """One segment: a minute at 20 Hz."""

    poses: TimedPoses
    """Seconds since the device's start; velocity recorded, acceleration not."""
    mount_yaw: float
    """Radians that the car's heading is to the left of the device's, already taken out."""
    can_speed: Float[np.ndarray, " m"]
    """m/s, from the car; has its own stamps."""
    can_time: Float[np.ndarray, " m"]


def read_drive(folder: Path | str, *, rear_axle_offset: float | int = 0.0) -> CommaDrive:
    """Reads one segment.

    Args:
        rear_axle_offset: metres from the rear axle forward to the camera; 0 = poses of the camera.

    Raises:
        ValueError: arrays are missing, of another shape, hold no numbers, or the car hardly moves;
            names the file.
    """
    folder = Path(folder)
    time = _array(folder, "global_pose/frame_times", ())
    positions = _array(folder, "global_pose/frame_positions", (3,))
    quaternions = _array(folder, "global_pose/frame_orientations", (4,))
    velocities = _array(folder, "global_pose/frame_velocities", (3,))
    if len({len(time), len(positions), len(quaternions), len(velocities)}) > 1:
        raise ValueError(
            f"{folder}: expected times, positions, orientations and velocities of as many frames, "
            f"found {[len(a) for a in (time, positions, quaternions, velocities)]}."
        )
    east, north = _tangent_plane(positions[0])
    offsets = positions - positions[0]
    forward = _forward_axes(quaternions)
    heading = np.unwrap(np.arctan2(forward @ north, forward @ east))
    ground = np.stack([velocities @ east, velocities @ north], axis=1)
    mount_yaw = _mount_yaw(ground, heading, folder)
    heading = heading + mount_yaw
    xy = np.stack([offsets @ east, offsets @ north], axis=1)
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    aside = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    velocity = np.stack([(ground * ahead).sum(axis=1), (ground * aside).sum(axis=1)], axis=1)
    if rear_axle_offset:
        xy = xy - rear_axle_offset * ahead
        velocity[:, 1] -= rear_axle_offset * np.gradient(heading, time)
    return CommaDrive(
        poses=TimedPoses(time, np.column_stack([xy, heading]), velocity, name=str(folder)),
        mount_yaw=mount_yaw,
        can_speed=_array(folder, "processed_log/CAN/speed/value", ()),
        can_time=_array(folder, "processed_log/CAN/speed/t", ()),
    )


def _array(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of floats with rows of `shape`; scalars may come as columns of one."""
    nested, flat = folder / name, folder / f"{name.replace('/', '_')}.npy"
    path = next((p for p in (nested, flat) if p.is_file()), None)
    if path is None:
        raise ValueError(
            f"{folder} has neither {name} nor {flat.name}: give the folder of one segment "
            "(a number below a route) of comma2k19."
        )
    try:
        rows = np.load(path, allow_pickle=False).astype(np.float64)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is no NumPy array of numbers ({error}): copy it again."
        ) from error
    if shape == () and rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows[:, 0]
    if rows.shape[1:] != shape or len(rows) < 2:
        raise ValueError(f"{path}: expected 2 rows or more of shape {shape}, found {rows.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError(f"{path} holds NaN or infinity: choose another segment.")
    return rows


def _tangent_plane(
    position: Float[np.ndarray, " 3"],
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Unit vectors to the east and north; up is the ellipsoid's normal below `position`."""
    up = position / _AXES**2
    up = up / np.linalg.norm(up)
    east = np.cross([0.0, 0.0, 1.0], up)
    east = east / np.linalg.norm(east)
    return east, np.cross(up, east)


def _forward_axes(quaternions: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 3"]:
    """The device's x axis in ECEF: the first column of its rotation."""
    norms = np.linalg.norm(quaternions, axis=1, keepdims=True)
    w, x, y, z = (quaternions / norms).T
    return np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=1)


def _mount_yaw(
    ground: Float[np.ndarray, "n 2"], heading: Float[np.ndarray, " n"], folder: Path
) -> float:
    is_fast = np.hypot(*ground.T) > _FAST
    if not is_fast.any():
        raise ValueError(
            f"{folder}: expected a car that drives faster than {_FAST} m/s at some time, found at "
            f"most {np.hypot(*ground.T).max():.1f} m/s: the device's yaw cannot be told."
        )
    course = np.arctan2(ground[is_fast, 1], ground[is_fast, 0])
    return float(np.median((course - heading[is_fast] + np.pi) % (2 * np.pi) - np.pi))
