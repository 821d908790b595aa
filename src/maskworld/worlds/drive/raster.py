"""The ground seen from above: how much road, marking and verge lies under each point.

The raster stores material weights and a texture, never colours, so that any weather is one small
matrix away (`weather.Appearance.ground_matrix`). A coarse copy serves the far ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from maskworld.worlds.drive.roads import LINE_NONE, LINE_STRIPED, Lane, RoadMap, offset_polyline

ROAD, MARKING, VERGE, TEXTURE = range(4)
MARKING_WIDTH = 0.3
"""Metres; twice the real width, so that it survives 64 pixels."""
DASH, GAP = 3.0, 4.5
VERGE_WIDTH = 1.3
COARSE = 4
"""The coarse raster has one pixel for this many of the fine one, each way."""
SHIFT = 4
"""Sub-pixel bits of OpenCV's drawing."""


@dataclass(frozen=True)
class GroundRaster:
    """Channels ROAD, MARKING, VERGE (they add up to 255 or less; the rest is ground), TEXTURE."""

    fine: UInt8[np.ndarray, "h w 4"]
    coarse: UInt8[np.ndarray, "hc wc 4"]
    origin: tuple[float, float]
    """World position of the outer corner of pixel (0, 0); rows grow with y, columns with x."""
    resolution: float
    """Metres per pixel of the fine raster."""

    def is_road(self, points: Float[np.ndarray, "n 2"]) -> np.ndarray:
        """True where road or marking covers the point; False outside the raster."""
        cells = np.floor((points - self.origin) / self.resolution).astype(int)
        h, w = self.fine.shape[:2]
        inside = ((cells >= 0) & (cells < (w, h))).all(axis=1)
        x, y = np.clip(cells, 0, (w - 1, h - 1)).T
        weights = self.fine[y, x].astype(int)
        return inside & (weights[:, ROAD] + weights[:, MARKING] > 127)


def build_raster(
    road_map: RoadMap,
    low: Float[np.ndarray, " 2"],
    high: Float[np.ndarray, " 2"],
    rng: np.random.Generator,
    *,
    resolution: float = 0.2,
) -> GroundRaster:
    """Paints the lanes between the corners `low` and `high` (world metres)."""
    size = np.ceil((high - low) / resolution / COARSE).astype(int) * COARSE
    width, height = int(size[0]), int(size[1])
    lanes = [
        lane
        for lane in road_map.lanes.values()
        if (lane.centreline.max(axis=0) > low - 5).all()
        and (lane.centreline.min(axis=0) < high + 5).all()
    ]
    lanes = [_crop(lane, low - 20, high + 20) for lane in lanes]

    def pixels(points: Float[np.ndarray, "n 2"]) -> np.ndarray:
        # OpenCV's coordinates have the centre of the first pixel at 0.
        return np.round(((points - low) / resolution - 0.5) * 2**SHIFT).astype(np.int32)

    road = np.zeros((height, width), np.uint8)
    outlines = [pixels(lane.polygon()) for lane in lanes]
    for outline in outlines:
        cv2.fillPoly(road, [outline], 255, cv2.LINE_8, SHIFT)
    road = _close(road, resolution, 6.0 if road_map.scenario == "intersection" else 2.0)
    radius = round(VERGE_WIDTH / resolution)
    verge = cv2.dilate(road, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    verge -= road

    marking = np.zeros_like(road)
    thickness = max(1, round(MARKING_WIDTH / resolution))
    lines = [line for lane in lanes for line in _painted_lines(lane)]
    if road_map.scenario == "intersection":
        stripes = _crosswalks(road_map)
        cv2.fillPoly(marking, [pixels(s) for s in stripes], 255, cv2.LINE_AA, SHIFT)
    cv2.polylines(
        marking, [pixels(line) for line in lines], False, 255, thickness, cv2.LINE_AA, SHIFT
    )
    fine = np.empty((height, width, 4), np.uint8)
    fine[..., MARKING] = marking
    fine[..., ROAD] = cv2.subtract(road, marking)
    fine[..., VERGE] = cv2.subtract(verge, marking)
    fine[..., TEXTURE] = _texture(height, width, resolution, road, rng)
    coarse = cv2.resize(fine, None, fx=1 / COARSE, fy=1 / COARSE, interpolation=cv2.INTER_AREA)
    return GroundRaster(fine, coarse, (float(low[0]), float(low[1])), resolution)


def _crop(lane: Lane, low: np.ndarray, high: np.ndarray) -> Lane:
    inside = ((lane.centreline > low) & (lane.centreline < high)).all(axis=1)
    kept = np.flatnonzero(inside)
    if len(kept) < 2:
        return lane
    part = lane.centreline[max(kept[0] - 1, 0) : kept[-1] + 2]
    return Lane(lane.index, part, lane.width, lane.left_line, lane.right_line, lane.speed_limit)


def _close(road: np.ndarray, resolution: float, gap: float) -> np.ndarray:
    """Fills cracks between lanes up to `gap` metres, at a quarter of the resolution."""
    small = cv2.resize(road, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    size = max(3, int(gap / (4 * resolution)) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    closed = cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel)
    holes = cv2.threshold(cv2.subtract(closed, small), 100, 255, cv2.THRESH_BINARY)[1]
    holes = cv2.resize(holes, road.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.max(road, cv2.threshold(holes, 127, 255, cv2.THRESH_BINARY)[1])


def _painted_lines(lane: Lane) -> list[Float[np.ndarray, "n 2"]]:
    lines = []
    for kind, side in ((lane.left_line, 1), (lane.right_line, -1)):
        if kind == LINE_NONE:
            continue
        inset = 0.0 if kind == LINE_STRIPED else 0.25
        edge = offset_polyline(lane.centreline, side * (lane.width / 2 - inset))
        if kind != LINE_STRIPED:
            lines.append(edge)
            continue
        station = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(edge, axis=0), axis=1))])
        for begin in np.arange(0.0, station[-1] - DASH / 2, DASH + GAP):
            at = np.linspace(begin, min(begin + DASH, station[-1]), 4)
            lines.append(np.stack([np.interp(at, station, edge[:, d]) for d in (0, 1)], axis=1))
    return lines


def _crosswalks(road_map: RoadMap) -> list[Float[np.ndarray, "4 2"]]:
    """Zebra stripes and a stop line across each approach of the intersection."""
    quads = []
    for index, lane in road_map.lanes.items():
        if not (index[0].startswith("o") and index[1].startswith("ir")):
            continue
        end = lane.centreline[-1]
        ahead = lane.centreline[-1] - lane.centreline[-2]
        ahead = ahead / np.linalg.norm(ahead)
        left = np.array([-ahead[1], ahead[0]])

        def quad(along: float, across: float, length: float, width: float) -> np.ndarray:
            middle = end + along * ahead + across * left  # noqa: B023
            u, v = ahead * length / 2, left * width / 2  # noqa: B023
            return np.stack([middle + u + v, middle + u - v, middle - u - v, middle - u + v])

        # The road is two lanes wide here; the opposite lane lies to the left.
        for across in np.arange(-1.5, 5.6, 1.1):
            quads.append(quad(-2.0, across, 2.6, 0.55))
        quads.append(quad(-4.4, 0.0, 0.5, lane.width - 0.6))
    return quads


@lru_cache(maxsize=1)
def _noise_tile() -> UInt8[np.ndarray, "512 512"]:
    """Fixed tileable noise of several scales; worlds differ by where they cut it."""
    rng = np.random.default_rng(0)
    total = np.zeros((512, 512), np.float32)
    for cells, weight in ((8, 0.9), (32, 0.8), (128, 0.8), (512, 0.6)):
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        wrapped = np.pad(noise, 2, mode="wrap")
        scale = 512 // cells
        big = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += weight * big[2 * scale : 2 * scale + 512, 2 * scale : 2 * scale + 512]
    total = (total - total.mean()) / total.std()
    return np.clip(128 + 40 * total, 0, 255).astype(np.uint8)


def _texture(
    height: int, width: int, resolution: float, road: np.ndarray, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w"]:
    tile = np.roll(_noise_tile(), rng.integers(0, 512, 2).tolist(), axis=(0, 1))
    repeats = (height // 512 + 1, width // 512 + 1)
    texture = np.tile(tile, repeats)[:height, :width].copy()
    # Asphalt is smoother than grass.
    calm = cv2.addWeighted(texture, 0.35, np.full_like(texture, 128), 0.65, 0)
    np.copyto(texture, calm, where=road > 0)
    return texture
