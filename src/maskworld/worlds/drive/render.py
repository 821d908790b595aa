"""From a world to pixels: ground by inverse perspective, solids in painter's order, fog, labels.

All solids are projected at once (`shading`). Colours are drawn at twice the size and averaged,
labels at the size of the picture from the same polygons and the same ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from maskworld.worlds.drive import panorama, raster
from maskworld.worlds.drive.cameras import Camera, Rays, rays
from maskworld.worlds.drive.classes import GROUND, MARKING, ROAD, SKY, VEGETATION
from maskworld.worlds.drive.raster import COARSE, GroundRaster
from maskworld.worlds.drive.scenery import Buildings, Fleet, Trees
from maskworld.worlds.drive.shading import Polygons, Viewpoint, gather_polygons, headlight
from maskworld.worlds.drive.weather import Appearance

SHIFT = 3
"""Sub-sample bits of the drawing."""
LIGHT_SCALE = 1 / 96
"""Light maps are stored in bytes; 255 is a factor of 2.66."""


@dataclass(frozen=True)
class Surroundings:
    """Everything that stands still."""

    raster: GroundRaster
    trees: Trees
    buildings: Buildings


def render_view(
    surroundings: Surroundings,
    fleet: Fleet,
    agents: Float[np.ndarray, "n 6"],
    strip: UInt8[np.ndarray, "hp wp 4"],
    appearance: Appearance,
    camera: Camera,
    pose: Float[np.ndarray, " 3"],
    size: tuple[int, int],
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """RGB and labels of one camera, `size` = (height, width)."""
    beam = rays(camera, size)
    picture = np.empty((*beam.size, 3), np.uint8)
    labels = np.empty(size, np.uint8)
    _draw_sky(picture, labels, strip, beam, float(pose[2]))
    _draw_ground(picture, labels, surroundings.raster, appearance, camera, size, pose)
    view = Viewpoint.of(camera, pose, beam)
    polygons = gather_polygons(
        surroundings.trees, surroundings.buildings, fleet, agents, appearance, view
    )
    if polygons is not None:
        _draw_polygons(picture, labels, polygons)
    return cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA), labels


def _draw_sky(
    picture: np.ndarray, labels: np.ndarray, strip: np.ndarray, beam: Rays, heading: float
) -> None:
    """The panorama, sampled once per pixel; it is smooth enough to be enlarged."""
    rows = len(beam.sky_x)
    if rows == 0:
        return
    turn = np.float32(heading % (2 * np.pi) * panorama.PIXELS_PER_RADIAN)
    found = cv2.remap(
        strip, beam.sky_x + turn, beam.sky_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    labels[:rows] = np.where(found[..., 3] > 127, VEGETATION, SKY)
    large = cv2.resize(found, (beam.size[1], 2 * rows), interpolation=cv2.INTER_LINEAR)
    picture[: 2 * rows] = large[: len(picture), :, :3]


def _draw_ground(
    picture: np.ndarray,
    labels: np.ndarray,
    ground: GroundRaster,
    appearance: Appearance,
    camera: Camera,
    size: tuple[int, int],
    pose: Float[np.ndarray, " 3"],
) -> None:
    beam = rays(camera, size)
    c, s = np.float32(np.cos(pose[2])), np.float32(np.sin(pose[2]))
    gx, gy = beam.ground_x, beam.ground_y
    weights = np.empty((*gx.shape, 4), np.uint8)
    parts = (
        (slice(0, beam.fine_from), ground.coarse, ground.resolution * COARSE),
        (slice(beam.fine_from, None), ground.fine, ground.resolution),
    )
    for rows, image, metres in parts:
        if gx[rows].size == 0:
            continue
        u, v = c / np.float32(metres), s / np.float32(metres)
        offset = ((pose[:2] - ground.origin) / metres - 0.5).astype(np.float32)
        x = u * gx[rows]
        x -= v * gy[rows]
        x += offset[0]
        y = v * gx[rows]
        y += u * gy[rows]
        y += offset[1]
        # Outside the raster all weights are zero, which is plain ground.
        cv2.remap(
            image, x, y, cv2.INTER_LINEAR, dst=weights[rows],
            borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 128),
        )  # fmt: skip
    light, haze = _ground_light(camera, size, appearance)
    colour = cv2.transform(weights, appearance.ground_matrix)
    cv2.multiply(colour, light, dst=colour, scale=LIGHT_SCALE)
    cv2.add(colour, haze, dst=picture[beam.horizon :])
    # Labels take one sample of each pixel, in the rows of pixels that are all ground.
    first = (beam.horizon + 1) // 2
    weights = weights[2 * first - beam.horizon + 1 :: 2, 1::2]
    marked = weights[..., raster.MARKING]
    found = np.full(marked.shape, GROUND, np.uint8)
    found[cv2.add(weights[..., raster.ROAD], marked) > 127] = ROAD
    found[marked > 100] = MARKING
    labels[first:] = found


@lru_cache(maxsize=64)
def _ground_light(
    camera: Camera, size: tuple[int, int], appearance: Appearance
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]:
    """What multiplies the ground's colour (light seen through fog) and what is added (fog)."""
    beam = rays(camera, size)
    clear = np.exp(-appearance.fog_density * beam.distance)[..., None]
    light = np.broadcast_to(appearance.ground_light, (*clear.shape[:2], 3))
    if appearance.headlights:
        lamps = appearance.headlights * headlight(beam.ground_x, beam.ground_y)
        light = light + lamps[..., None]
    haze = (1 - clear) * appearance.fog_colour
    scaled = np.minimum(light * clear / LIGHT_SCALE, 255)
    return scaled.astype(np.uint8), haze.astype(np.uint8)


def _draw_polygons(picture: np.ndarray, labels: np.ndarray, polygons: Polygons) -> None:
    fixed = np.clip(polygons.points * 2**SHIFT, -(2**20), 2**20)
    points = np.round(fixed).astype(np.int32)
    # A pixel is two samples wide and its centre lies between them.
    halved = points - 2 ** (SHIFT - 1)
    colours = np.clip(polygons.colours, 0, 255).tolist()
    for p, half, colour, label in zip(points, halved, colours, polygons.labels.tolist()):
        cv2.fillConvexPoly(picture, p, colour, cv2.LINE_8, SHIFT)
        if label >= 0:
            cv2.fillConvexPoly(labels, half, label, cv2.LINE_8, SHIFT + 1)
