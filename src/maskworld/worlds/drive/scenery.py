"""Trees, buildings and vehicles as coloured polygons in space, ready to be projected.

Every solid is a set of quads; a tree is a trunk and a few flat blobs that face the camera. Colours
are codes: the renderer looks them up in the palette of the weather.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Int

from maskworld.worlds.drive.raster import GroundRaster

MATERIALS = (
    "shadow", "paint", "glass", "tyre", "tail_light", "head_light", "wall", "roof", "window",
)  # fmt: skip
SHADOW, PAINT, GLASS, TYRE, TAIL_LIGHT, HEAD_LIGHT, WALL, ROOF, WINDOW = range(len(MATERIALS))
DETAIL = 3
CAR_COLOURS = np.array(
    [
        (196, 44, 40), (36, 72, 160), (226, 226, 222), (44, 46, 52), (158, 162, 168),
        (232, 182, 44), (30, 116, 92), (236, 236, 240),
    ],
    dtype=np.float64,
)  # fmt: skip
WALL_COLOURS = np.array(
    [(196, 178, 150), (170, 98, 80), (186, 188, 192), (212, 204, 188), (132, 142, 156)],
    dtype=np.float64,
)


@dataclass(frozen=True)
class Quads:
    """Convex quads, counter-clockwise seen from outside."""

    corners: Float[np.ndarray, "n 4 3"]
    """World x, y and height; or the frame of the vehicle for a template."""
    normal: Float[np.ndarray, "n 3"]
    material: Int[np.ndarray, " n"]
    owner: Int[np.ndarray, " n"]
    """Which solid the quad belongs to."""
    rank: Int[np.ndarray, " n"]
    """Order of painting within a solid; `DETAIL` quads are left out far away."""
    tint: Float[np.ndarray, "n 3"]
    """Colour of paint and walls, RGB in 0 to 255; other materials have their own."""


@dataclass(frozen=True)
class Trees:
    """Rows are trees."""

    base: Float[np.ndarray, "n 2"]
    height: Float[np.ndarray, " n"]
    radius: Float[np.ndarray, " n"]
    hue: Int[np.ndarray, " n"]
    """Index into the foliage colours."""
    is_conifer: np.ndarray


@dataclass(frozen=True)
class Buildings:
    """Rows are buildings; `quads.owner` counts them."""

    centre: Float[np.ndarray, "n 2"]
    radius: Float[np.ndarray, " n"]
    quads: Quads


@dataclass(frozen=True)
class Fleet:
    """The bodies of all vehicles of a world; `quads` are in the frame of their owner."""

    radius: Float[np.ndarray, " n"]
    quads: Quads


def _box(
    x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], sides: str
) -> list[np.ndarray]:
    """The wanted faces of an upright box, in the order of `sides`: f, b, l, r, t."""
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    faces = {
        "f": [(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)],
        "b": [(x0, y1, z0), (x0, y0, z0), (x0, y0, z1), (x0, y1, z1)],
        "l": [(x1, y1, z0), (x0, y1, z0), (x0, y1, z1), (x1, y1, z1)],
        "r": [(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)],
        "t": [(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)],
    }
    return [np.array(faces[s]) for s in sides]


def _quads(parts: list[tuple[list[np.ndarray], int, int, int]]) -> Quads:
    """From (faces, material, owner, rank) to arrays, with normals."""
    corners = np.concatenate([np.stack(faces) for faces, *_ in parts]).astype(np.float64)
    counts = [len(faces) for faces, *_ in parts]
    material, owner, rank = (np.repeat([p[i] for p in parts], counts) for i in (1, 2, 3))
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return Quads(corners, normal, material, owner, rank, np.zeros((len(corners), 3)))


def build_fleet(kinds: list[str], colours: Float[np.ndarray, "n 3"]) -> Fleet:
    """Bodies of the given kinds in the given paint."""
    templates = [vehicle_template(kind) for kind in kinds]
    if not templates:
        empty = vehicle_template("car")
        return Fleet(np.zeros(0), Quads(*(getattr(empty, f)[:0] for f in _FIELDS)))
    counts = [len(template.rank) for template in templates]
    owner = np.repeat(np.arange(len(kinds)), counts)
    corners, normal, material, rank = (
        np.concatenate([getattr(template, f) for template in templates])
        for f in ("corners", "normal", "material", "rank")
    )
    radius = np.array([float(np.abs(t.corners[..., :2]).max() * 1.2) for t in templates])
    return Fleet(radius, Quads(corners, normal, material, owner, rank, colours[owner]))


_FIELDS = ("corners", "normal", "material", "owner", "rank", "tint")


@lru_cache(maxsize=8)
def vehicle_template(kind: str) -> Quads:
    """A car, van or truck around its centre, x forward, standing on height 0."""
    if kind == "car":
        length, width, height, belt = 4.5, 1.85, 1.5, 0.85
        cabin = (-0.32 * length, 0.2 * length)
    elif kind == "van":
        length, width, height, belt = 5.2, 2.0, 2.1, 1.15
        cabin = (-0.48 * length, 0.34 * length)
    else:
        length, width, height, belt = 8.5, 2.5, 3.3, 3.3
        cabin = (0.0, 0.0)
    x, y = (-length / 2, length / 2), (-width / 2, width / 2)
    ground = 0.28
    shadow = _box((x[0] - 0.2, x[1] + 0.2), (y[0] - 0.25, y[1] + 0.25), (0.0, 0.01), "t")
    parts = [(shadow, SHADOW, 0, 0)]
    parts.append((_box(x, y, (ground, belt), "fblrt"), PAINT, 0, 2))
    for middle in (-0.3 * length, 0.3 * length):
        for side, face in ((y[1] + 0.01, "l"), (y[0] - 0.01, "r")):
            wheel = _box((middle - 0.36, middle + 0.36), (side, side), (0.0, 0.66), face)
            parts.append((wheel, TYRE, 0, 3))
    back, front = x[0] - 0.02, x[1] + 0.02
    inner = width / 2 - 0.5
    for sign in (-1, 1):
        span = (min(sign * inner, sign * width / 2), max(sign * inner, sign * width / 2))
        top = min(belt, 1.1)
        parts.append((_box((back, back), span, (top - 0.34, top - 0.06), "b"), TAIL_LIGHT, 0, 3))
        parts.append((_box((front, front), span, (top - 0.4, top - 0.12), "f"), HEAD_LIGHT, 0, 3))
    bumper = _box((back, front), (y[0] + 0.05, y[1] - 0.05), (ground, ground + 0.16), "fb")
    parts.append((bumper, TYRE, 0, 3))
    if kind == "truck":
        windscreen = _box((front, front), (y[0] + 0.2, y[1] - 0.2), (1.7, 2.6), "f")
        parts.append((windscreen, GLASS, 0, 3))
        doors = _box((back, back), (-0.05, 0.05), (0.6, height - 0.1), "b")
        parts.append((doors, TYRE, 0, 3))
    else:
        top_x, top_y = (cabin[0] + 0.35, cabin[1] - 0.45), (y[0] + 0.2, y[1] - 0.2)
        feet = _box(cabin, (y[0] + 0.04, y[1] - 0.04), (belt, belt), "fblr")
        tops = _box(top_x, top_y, (height, height), "fblr")
        # Sloping windows: the lower two corners of the foot, the upper two of the top.
        glass = [np.concatenate([foot[:2], high[2:]]) for foot, high in zip(feet, tops)]
        parts.append((glass, GLASS, 0, 4))
        parts.append((_box(top_x, top_y, (height - 0.16, height), "fblrt"), PAINT, 0, 5))
    return _quads(parts)


def plant_trees(
    raster: GroundRaster, path: Float[np.ndarray, "n 2"], rng: np.random.Generator
) -> Trees:
    """Trees beside the roads near `path`, and a loose wood behind."""
    clearance = _distance_to_road(raster)
    low, high, cell = _extent(raster)
    area = float(np.prod(high - low))
    points = rng.uniform(low, high, (int(area / 28.0), 2))
    away = _sample(clearance, points, low, cell)
    # Dense in a row 4 to 9 m from the road, sparse beyond.
    keep = rng.uniform(size=len(points)) < np.where(away < 9.0, 0.42, 0.12)
    nearest = _distance_to_path(points, path)
    points = points[keep & (away > 4.0) & (nearest < 75.0)]
    points = _thin(points, 3.2)
    n = len(points)
    return Trees(
        points,
        rng.uniform(4.0, 9.5, n),
        rng.uniform(1.3, 2.6, n),
        rng.integers(0, 4, n),
        rng.uniform(size=n) < 0.3,
    )


def place_buildings(
    raster: GroundRaster,
    path: Float[np.ndarray, "n 2"],
    trees: Trees,
    rng: np.random.Generator,
) -> tuple[Buildings, Trees]:
    """Houses and blocks off the road; trees that they would swallow are felled."""
    clearance = _distance_to_road(raster)
    low, high, cell = _extent(raster)
    points = rng.uniform(low, high, (240, 2))
    away = _sample(clearance, points, low, cell)
    nearest = _distance_to_path(points, path)
    points = points[(away > 14.0) & (away < 45.0) & (nearest < 70.0)]
    points = _thin(points, 24.0)[:16]
    parts: list[tuple[list[np.ndarray], int, int, int]] = []
    radii = []
    for i, (x, y) in enumerate(points):
        half = rng.uniform(4.0, 8.0, 2)
        height = float(rng.choice([rng.uniform(4.5, 8.0), rng.uniform(9.0, 18.0)]))
        box = [(x - half[0], x + half[0]), (y - half[1], y + half[1])]
        parts.append((_box(box[0], box[1], (0.0, height), "fblr"), WALL, i, 0))
        parts.append((_box(box[0], box[1], (height - 0.7, height), "fblr"), ROOF, i, 2))
        for floor in np.arange(1.2, height - 2.0, 3.2):
            for face in "fblr":
                parts.append((_windows(box, floor, face), WINDOW, i, 1))
        radii.append(float(np.hypot(*half)))
    if not parts:
        # One wall far away keeps every array non-empty.
        points, radii = np.array([[1e6, 1e6]]), [1.0]
        parts.append((_box((1e6, 1e6), (1e6, 1e6), (0.0, 1.0), "f"), WALL, 0, 0))
    centre, radius, quads = points.reshape(-1, 2), np.array(radii), _quads(parts)
    colour = WALL_COLOURS[rng.integers(0, len(WALL_COLOURS), len(centre))]
    quads = replace(quads, tint=colour[quads.owner])
    gap = np.hypot(*(trees.base[:, None] - centre[None]).transpose(2, 0, 1)) - radius
    stands = (gap > 1.5).all(axis=1)
    kept = Trees(*(getattr(trees, f)[stands] for f in Trees.__dataclass_fields__))
    return Buildings(centre, radius, quads), kept


def _windows(box: list[tuple[float, float]], floor: float, face: str) -> list[np.ndarray]:
    """A row of windows on one face."""
    along = box[1] if face in "fb" else box[0]
    quads = []
    for u in np.arange(along[0] + 1.0, along[1] - 2.0, 3.4):
        span = (float(u), float(u) + 1.9)
        x = span if face in "lr" else (box[0][0] - 0.02, box[0][1] + 0.02)
        y = span if face in "fb" else (box[1][0] - 0.02, box[1][1] + 0.02)
        quads += _box(x, y, (float(floor), float(floor) + 1.6), face)
    return quads


def _extent(raster: GroundRaster) -> tuple[np.ndarray, np.ndarray, float]:
    low = np.array(raster.origin)
    cell = raster.resolution * raster.fine.shape[0] / raster.coarse.shape[0]
    return low, low + np.array(raster.coarse.shape[1::-1]) * cell, cell


def _distance_to_road(raster: GroundRaster) -> Float[np.ndarray, "h w"]:
    """Metres from each coarse pixel to the nearest road."""
    road = (raster.coarse[..., 0] > 60) | (raster.coarse[..., 1] > 60)
    if not road.any():
        return np.full(road.shape, 1e3, np.float64)
    cell = raster.resolution * raster.fine.shape[0] / raster.coarse.shape[0]
    return cv2.distanceTransform((~road).astype(np.uint8), cv2.DIST_L2, 3).astype(float) * cell


def _sample(grid: np.ndarray, points: np.ndarray, low: np.ndarray, cell: float) -> np.ndarray:
    x, y = ((points - low) / cell).astype(int).T
    return grid[np.clip(y, 0, grid.shape[0] - 1), np.clip(x, 0, grid.shape[1] - 1)]


def _distance_to_path(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    sparse = path[:: max(1, len(path) // 40)]
    return np.hypot(*(points[:, None] - sparse[None]).transpose(2, 0, 1)).min(axis=1)


def _thin(points: np.ndarray, spacing: float) -> np.ndarray:
    """Keeps one point per cell of `spacing` metres, the first."""
    if len(points) == 0:
        return points
    _, first = np.unique(np.floor(points / spacing).astype(int), axis=0, return_index=True)
    return points[np.sort(first)]
