"""From a world to pixels: ground by inverse perspective, solids in painter's order, fog, labels.

All solids are projected at once. Pixels are drawn as polygon numbers, which colours and labels are
then read from, so the two are aligned by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from maskworld.worlds.drive import panorama
from maskworld.worlds.drive.cameras import SUPERSAMPLING, Camera, Rays, rays
from maskworld.worlds.drive.raster import COARSE, MARKING, ROAD, GroundRaster
from maskworld.worlds.drive.scenery import Buildings, Trees
from maskworld.worlds.drive.shading import Solids, Viewpoint, gather_solids, headlight
from maskworld.worlds.drive.weather import Appearance

CLASSES = ("sky", "ground", "road", "marking", "vehicle", "vegetation", "building")
SKY, GROUND, ROAD_LABEL, MARKING_LABEL, VEHICLE, VEGETATION, BUILDING = range(len(CLASSES))
SHIFT = 3
SHADOW_ID = 1
SHADOW_LIGHT = 0.55


@dataclass(frozen=True)
class Surroundings:
    """Everything that stands still."""

    raster: GroundRaster
    trees: Trees
    buildings: Buildings


def render_view(
    surroundings: Surroundings,
    agents: Float[np.ndarray, "n 6"],
    kinds: list[str],
    colours: Float[np.ndarray, "n 3"],
    strip: UInt8[np.ndarray, "hp wp 4"],
    appearance: Appearance,
    camera: Camera,
    pose: Float[np.ndarray, " 3"],
    size: tuple[int, int],
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """RGB and labels of one camera, `size` = (height, width)."""
    beam = rays(camera, size)
    h, w = beam.size
    picture = np.empty((h, w, 3), np.uint8)
    labels = np.empty((h, w), np.uint8)
    _draw_sky(picture, labels, strip, beam, pose[2])
    solids = gather_solids(
        surroundings.trees,
        surroundings.buildings,
        agents,
        kinds,
        colours,
        appearance,
        Viewpoint.of(camera, pose, beam),
    )
    ids = _draw_ids(solids, (h, w))
    _draw_ground(picture, labels, ids, surroundings.raster, appearance, camera, size, pose)
    np.copyto(picture, solids.colours[ids], where=(ids > SHADOW_ID)[..., None])
    np.copyto(labels, solids.labels[ids], where=ids > SHADOW_ID)
    rgb = cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return rgb, labels[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING]


def _draw_sky(
    picture: np.ndarray, labels: np.ndarray, strip: np.ndarray, beam: Rays, heading: float
) -> None:
    if beam.horizon == 0:
        return
    turn = heading % (2 * np.pi)
    x = (beam.sky_azimuth + np.float32(turn)) * np.float32(panorama.PIXELS_PER_RADIAN)
    y = (np.float32(panorama.TOP) - beam.sky_elevation) * np.float32(panorama.PIXELS_PER_RADIAN)
    np.clip(y, 0, panorama.HEIGHT - 1.01, out=y)
    found = cv2.remap(strip, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    picture[: beam.horizon] = found[..., :3]
    labels[: beam.horizon] = np.where(found[..., 3] > 127, VEGETATION, SKY)


def _draw_ground(
    picture: np.ndarray,
    labels: np.ndarray,
    ids: Int[np.ndarray, "h w"],
    raster: GroundRaster,
    appearance: Appearance,
    camera: Camera,
    size: tuple[int, int],
    pose: Float[np.ndarray, " 3"],
) -> None:
    beam = rays(camera, size)
    c, s = np.float32(np.cos(pose[2])), np.float32(np.sin(pose[2]))
    gx, gy = beam.ground[..., 0], beam.ground[..., 1]
    x = c * gx - s * gy
    y = s * gx + c * gy
    weights = np.empty((*x.shape, 4), np.uint8)
    # The sum of the weights is zero outside the raster, which is plain ground.
    outside = (0, 0, 0, 128)
    parts = (
        (slice(0, beam.fine_from), raster.coarse, raster.resolution * COARSE),
        (slice(beam.fine_from, None), raster.fine, raster.resolution),
    )
    for rows, image, metres in parts:
        if x[rows].size == 0:
            continue
        scale = np.float32(1.0 / metres)
        offset = (pose[:2] - raster.origin) / metres - 0.5
        weights[rows] = cv2.remap(
            image,
            x[rows] * scale + np.float32(offset[0]),
            y[rows] * scale + np.float32(offset[1]),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=outside,
        )
    light, haze = _ground_light(camera, size, appearance)
    colour = cv2.transform(weights, appearance.ground_matrix).astype(np.float32)
    colour *= light
    colour[ids[beam.horizon :] == SHADOW_ID] *= SHADOW_LIGHT
    colour += haze
    picture[beam.horizon :] = np.minimum(colour, 255, out=colour)
    found = np.full(x.shape, GROUND, np.uint8)
    marked = weights[..., MARKING]
    found[cv2.add(weights[..., ROAD], marked) > 127] = ROAD_LABEL
    found[marked > 100] = MARKING_LABEL
    labels[beam.horizon :] = found


@lru_cache(maxsize=256)
def _ground_light(
    camera: Camera, size: tuple[int, int], appearance: Appearance
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]]:
    """What multiplies the ground's colour (light seen through fog) and what is added (fog)."""
    beam = rays(camera, size)
    clear = np.exp(-appearance.fog_density * beam.distance)[..., None]
    light = np.broadcast_to(appearance.ground_light.astype(np.float32), (*clear.shape[:2], 3))
    if appearance.lights_on and appearance.style.time != "day":
        light = light + headlight(beam.ground[..., 0], beam.ground[..., 1])[..., None]
    haze = (1 - clear) * appearance.fog_colour
    return (light * clear).astype(np.float32), haze.astype(np.float32)


def _draw_ids(solids: Solids, size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    """The number of the front polygon at each sample; 0 where there is none."""
    canvas = np.zeros(size, np.int32)
    for number, points in zip(solids.numbers, solids.points):
        cv2.fillConvexPoly(canvas, points, number, cv2.LINE_8, SHIFT)
    return canvas
