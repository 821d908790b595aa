"""The car of NAVSIM's scores (a Chrysler Pacifica) and its box in the plane."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# nuPlan's Pacifica, metres.
WIDTH = 2.297
FRONT = 4.049
"""From the rear axle to the front bumper."""
REAR = 1.127
"""From the rear axle to the rear bumper."""
LENGTH = FRONT + REAR
CENTRE = (FRONT - REAR) / 2
"""From the rear axle forward to the centre of the box."""
WHEEL_BASE = 3.089


def box_centre(poses: Float[np.ndarray, "*b k"]) -> Float[np.ndarray, "*b 2"]:
    """The centre of the car's box for rear-axle poses (the first three of k: x, y, heading)."""
    heading = poses[..., 2]
    x = poses[..., 0] + CENTRE * np.cos(heading)
    y = poses[..., 1] + CENTRE * np.sin(heading)
    return np.moveaxis(np.stack([x, y]), 0, -1)  # x and y stay apart in memory: faster to use


def box_corners(poses: Float[np.ndarray, "*b k"]) -> Float[np.ndarray, "*b 4 2"]:
    """Front left, rear left, rear right, front right corner for rear-axle poses."""
    ahead = np.array([FRONT, -REAR, -REAR, FRONT])
    left = np.array([WIDTH, WIDTH, -WIDTH, -WIDTH]) / 2
    cos, sin = np.cos(poses[..., 2, None]), np.sin(poses[..., 2, None])
    x = poses[..., 0, None] + (ahead * cos - left * sin)
    y = poses[..., 1, None] + (ahead * sin + left * cos)
    return np.moveaxis(np.stack([x, y]), 0, -1)
