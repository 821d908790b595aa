"""nuScenes' CAN bus expansion: recorded ego status, and the route that was to be followed.

    CAN_BUS/scene-0001_pose.json    50 Hz: utime, vel and accel in the ego frame
    CAN_BUS/scene-0001_route.json   points (x, y) of the baseline route on the map

The route is "the recommended navigation path", about 50 m longer than the scene at both ends, and
knows nothing of where the car drove, so commands may come from it. 3 % of the scenes have none, and
some have no CAN messages at all.

Reference: nuscenes-devkit, python-sdk/nuscenes/can_bus/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

MAX_OFFSET = 0.1
"""Seconds between a picture and the nearest message; farther ones say nothing of it (ours)."""


def read_status(
    folder: Path, scene: str, timestamps: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 4"] | None:
    """vx, vy (m/s), ax, ay (m/s^2) in the ego frame, interpolated at `timestamps` (microseconds).

    None where the scene has no messages, or none within `MAX_OFFSET` of one of the moments.

    Raises:
        ValueError: the file is damaged; names it.
    """
    path = folder / f"{scene}_pose.json"
    messages = _read(path)
    if not messages:
        return None
    try:
        stamps = np.array([message["utime"] for message in messages], dtype=np.int64)
        rows = np.array([m["vel"][:2] + m["accel"][:2] for m in messages], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected messages with utime, vel and accel ({error!r}): extract it again."
        ) from error
    order = np.argsort(stamps, kind="stable")
    stamps, rows = stamps[order], rows[order]
    if rows.shape[1:] != (4,) or not np.isfinite(rows).all():
        raise ValueError(f"{path}: expected finite vel and accel of 3 numbers: extract it again.")
    after = np.searchsorted(stamps, timestamps).clip(0, len(stamps) - 1)
    before = (after - 1).clip(0)
    farthest = np.minimum(abs(stamps[after] - timestamps), abs(stamps[before] - timestamps)).max()
    if farthest > 1e6 * MAX_OFFSET:
        return None
    return np.stack([np.interp(timestamps, stamps, column) for column in rows.T], axis=1)


def read_route(folder: Path, scene: str) -> Float[np.ndarray, "m 2"] | None:
    """Points of the route in metres on the map, in order; None where the scene has none.

    Raises:
        ValueError: the file is damaged; names it.
    """
    path = folder / f"{scene}_route.json"
    points = _read(path)
    if not points:
        return None
    try:
        route = np.array(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a list of points: extract it again.") from error
    if route.ndim != 2 or route.shape[1] != 2 or not np.isfinite(route).all():
        raise ValueError(
            f"{path}: expected finite points (x, y), found shape {route.shape}: extract it again."
        )
    return route


def _read(path: Path) -> list[Any]:
    """The messages in a file; none where it is missing."""
    if not path.is_file():
        return []
    try:
        messages = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): extract it again.") from error
    if not isinstance(messages, list):
        raise ValueError(f"{path}: expected a list of messages: extract it again.")
    return messages
