"""NAVSIM's types where it is installed, and stand-ins of the same fields where it is not.

Reference: NAVSIM v1.1, navsim/common/dataclasses.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float

NUM_WAYPOINTS, WAYPOINT_INTERVAL, HORIZON = 8, 0.5, 4.0


@dataclass(frozen=True)
class Sampling:
    """Stands for nuPlan's `TrajectorySampling` where that is not installed."""

    time_horizon: float = HORIZON
    interval_length: float = WAYPOINT_INTERVAL


@dataclass(frozen=True)
class Trajectory:
    """Stands for NAVSIM's `Trajectory` where that is not installed."""

    poses: Float[np.ndarray, "l 3"]
    """x, y (m), heading (rad) in the ego frame of now, float32."""
    trajectory_sampling: Any = Sampling()


@dataclass(frozen=True)
class SensorConfig:
    """Stands for NAVSIM's `SensorConfig` where that is not installed: for each sensor whether, or
    at which frames of the history, it is loaded."""

    cam_f0: bool | list[int]
    cam_l0: bool | list[int]
    cam_l1: bool | list[int]
    cam_l2: bool | list[int]
    cam_r0: bool | list[int]
    cam_r1: bool | list[int]
    cam_r2: bool | list[int]
    cam_b0: bool | list[int]
    lidar_pc: bool | list[int]


def installed(module: str, name: str) -> Any:
    """A class of NAVSIM or nuPlan; None where the package is not installed. One that is installed
    and broken says so itself."""
    package = module.split(".")[0]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name == package:
            return None
        raise
