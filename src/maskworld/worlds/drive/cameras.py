"""Pinhole cameras on the ego, and the rays of their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from maskworld.worlds.drive import panorama

VIEWS = ("front", "front_left", "front_right", "back", "back_left", "back_right")
SUPERSAMPLING = 2
"""Each pixel is the mean of this many samples each way."""


@dataclass(frozen=True)
class Camera:
    """A pinhole without roll. Angles in radians, lengths in metres."""

    name: str = "front"
    yaw: float = 0.0
    """Counter-clockwise from the ego's heading."""
    pitch: float = -0.05
    """Upwards positive."""
    fov: float = float(np.deg2rad(90.0))
    """Horizontal field of view."""
    forward: float = 1.6
    """Ahead of the rear axle."""
    left: float = 0.0
    height: float = 1.6


def camera_rig(num_cameras: int = 1) -> tuple[Camera, ...]:
    """The first `num_cameras` (1 to 6) of `VIEWS`.

    Raises:
        ValueError: a number outside 1 to 6.
    """
    if not 1 <= num_cameras <= len(VIEWS):
        raise ValueError(
            f"Expected 1 to {len(VIEWS)} cameras, found {num_cameras}: "
            f"the rig has {', '.join(VIEWS)}, in this order."
        )
    degrees = {"front": 0, "front_left": 60, "front_right": -60, "back": 180}
    degrees |= {"back_left": 120, "back_right": -120}
    forward = {"front": 1.6, "front_left": 1.5, "front_right": 1.5, "back": -0.6}
    return tuple(
        Camera(name, yaw=float(np.deg2rad(degrees[name])), forward=forward.get(name, 0.8))
        for name in VIEWS[:num_cameras]
    )


@dataclass(frozen=True)
class Rays:
    """What every sample of a camera sees; shared by all frames. Rows go from the top."""

    size: tuple[int, int]
    """Samples, height and width."""
    focal: float
    """In samples."""
    horizon: int
    """The first row of samples that see only ground."""
    sky_x: Float[np.ndarray, "hs ws"]
    """Column in the panorama at heading 0, per pixel, down to the horizon."""
    sky_y: Float[np.ndarray, "hs ws"]
    ground_x: Float[np.ndarray, "hg w"]
    """Where a sample hits the ground, in the ego frame (x forward, y left)."""
    ground_y: Float[np.ndarray, "hg w"]
    distance: Float[np.ndarray, "hg w"]
    fine_from: int
    """Ground rows from this one on need the fine raster."""


@lru_cache(maxsize=64)
def rays(camera: Camera, size: tuple[int, int]) -> Rays:
    """The rays of a camera whose picture has `size` = (height, width) pixels."""
    h, w = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    focal = w / 2 / float(np.tan(camera.fov / 2))
    forward, left, up = _directions(camera, (h, w), focal)
    horizon = int(np.searchsorted(-up[:, 0], 1e-3))
    scale = camera.height / -up[horizon:]
    x, y = forward[horizon:] * scale, left[horizon:] * scale
    cy, sy = np.cos(camera.yaw), np.sin(camera.yaw)
    # A sample row spans about x^2 / (focal * height) metres of ground; the fine raster has 0.2.
    footprint = x[:, w // 2] ** 2 / (focal * camera.height)
    # The sky needs one ray per pixel, down to the pixel that holds the horizon.
    rows = -(-horizon // SUPERSAMPLING)
    sky = _directions(camera, size, focal / SUPERSAMPLING)
    forward, left, up = (axis[:rows] for axis in sky)
    azimuth = np.arctan2(left, forward) + camera.yaw
    elevation = np.arctan2(up, np.hypot(forward, left))
    sky_y = np.clip(
        (panorama.TOP - elevation) * panorama.PIXELS_PER_RADIAN, 0, panorama.HEIGHT - 1.01
    )
    return Rays(
        size=(h, w),
        focal=focal,
        horizon=horizon,
        sky_x=(azimuth * panorama.PIXELS_PER_RADIAN).astype(np.float32),
        sky_y=sky_y.astype(np.float32),
        ground_x=(camera.forward + cy * x - sy * y).astype(np.float32),
        ground_y=(camera.left + sy * x + cy * y).astype(np.float32),
        distance=np.hypot(x, y).astype(np.float32),
        fine_from=int(np.searchsorted(-footprint, -0.5)),
    )


def _directions(
    camera: Camera, size: tuple[int, int], focal: float
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Rays through a grid of samples as forward, left and up; level, along the camera's yaw."""
    h, w = size
    right = (np.arange(w) + 0.5 - w / 2) / focal
    down = (np.arange(h) + 0.5 - h / 2) / focal
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    forward = np.broadcast_to((c + s * down)[:, None], (h, w))
    up = np.broadcast_to((s - c * down)[:, None], (h, w))
    return forward, np.broadcast_to(-right[None], (h, w)), up
