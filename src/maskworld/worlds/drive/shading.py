"""Which solids a camera sees, where their polygons fall in the picture, and in which colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from maskworld.worlds.drive.cameras import Camera, Rays
from maskworld.worlds.drive.scenery import (
    GLASS,
    HEAD_LIGHT,
    PAINT,
    ROOF,
    SHADOW,
    TAIL_LIGHT,
    TYRE,
    WALL,
    WINDOW,
    Buildings,
    Quads,
    Trees,
    vehicle_template,
)
from maskworld.worlds.drive.weather import Appearance

NEAR = 0.3
"""Metres in front of the camera where polygons are cut."""
TREE_RANGE, BUILDING_RANGE, VEHICLE_RANGE = 85.0, 120.0, 110.0
DETAIL_RANGE = 40.0
"""Beyond it windows, wheels and lights are left out. Metres, ours."""
SHIFT = 3


@dataclass(frozen=True)
class Viewpoint:
    """A camera placed in the world."""

    position: Float[np.ndarray, " 3"]
    heading: float
    pitch: float
    focal: float
    size: tuple[int, int]
    """Samples."""
    ego_pose: Float[np.ndarray, " 3"]

    @classmethod
    def of(cls, camera: Camera, pose: Float[np.ndarray, " 3"], beam: Rays) -> Viewpoint:
        c, s = np.cos(pose[2]), np.sin(pose[2])
        x = pose[0] + c * camera.forward - s * camera.left
        y = pose[1] + s * camera.forward + c * camera.left
        position = np.array([x, y, camera.height])
        return cls(position, pose[2] + camera.yaw, camera.pitch, beam.focal, beam.size, pose)

    def to_camera(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """World points as right, down, depth in metres."""
        d = points - self.position
        c, s = np.cos(self.heading), np.sin(self.heading)
        forward = c * d[..., 0] + s * d[..., 1]
        right = s * d[..., 0] - c * d[..., 1]
        cp, sp = np.cos(self.pitch), np.sin(self.pitch)
        depth = cp * forward + sp * d[..., 2]
        down = sp * forward - cp * d[..., 2]
        return np.stack([right, down, depth], axis=-1)

    def to_samples(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
        """Camera points to sample coordinates, the centre of the first sample at 0."""
        scale = self.focal / np.maximum(points[..., 2:], NEAR * 0.5)
        middle = np.array([self.size[1] / 2 - 0.5, self.size[0] / 2 - 0.5])
        return points[..., :2] * scale + middle


@dataclass(frozen=True)
class Solids:
    """Polygons from back to front, with lookup tables by number (0 none, 1 shadow)."""

    points: list[Int[np.ndarray, "k 2"]]
    numbers: list[int]
    colours: UInt8[np.ndarray, "m 3"]
    labels: UInt8[np.ndarray, " m"]


def headlight(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Light of the ego's own lamps at a point of the ego frame, as a factor on colours."""
    x = np.maximum(x, 0.1)
    return 0.85 * np.exp(-((y / (0.45 * x + 1.2)) ** 2)) * np.exp(-x / 22.0) * (x > 0.2)


def gather_solids(
    trees: Trees,
    buildings: Buildings,
    agents: Float[np.ndarray, "n 6"],
    kinds: list[str],
    colours: Float[np.ndarray, "n 3"],
    appearance: Appearance,
    view: Viewpoint,
) -> Solids:
    """Projects, lights and sorts everything in front of the camera."""
    parts = [
        _vehicles(agents, kinds, colours, appearance, view),
        _buildings(buildings, appearance, view),
        _trees(trees, appearance, view),
    ]
    parts = [part for part in parts if part is not None]
    tables = [np.zeros((2, 3)), *[part.colours for part in parts]]
    labels = [np.zeros(2, np.uint8), *[part.labels for part in parts]]
    if not parts:
        return Solids([], [], np.zeros((2, 3), np.uint8), np.zeros(2, np.uint8))
    points = np.concatenate([part.points for part in parts])
    distance = np.concatenate([part.distance for part in parts])
    rank = np.concatenate([part.rank for part in parts])
    order = np.lexsort((rank, -distance))
    number = np.arange(2, len(points) + 2)
    number[np.concatenate([part.is_shadow for part in parts])] = 1
    fixed = np.clip(points * 2**SHIFT, -(2**20), 2**20)
    fixed = np.round(fixed).astype(np.int32)[order]
    return Solids(
        list(fixed),
        number[order].tolist(),
        np.clip(np.concatenate(tables), 0, 255).astype(np.uint8),
        np.concatenate(labels),
    )


@dataclass(frozen=True)
class _Polygons:
    points: Float[np.ndarray, "n 8 2"]
    distance: Float[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    colours: Float[np.ndarray, "n 3"]
    labels: UInt8[np.ndarray, " n"]
    is_shadow: np.ndarray


def _lit(
    colour: Float[np.ndarray, "n 3"],
    normal: Float[np.ndarray, "n 3"],
    position: Float[np.ndarray, "n 3"],
    emits: np.ndarray,
    appearance: Appearance,
    view: Viewpoint,
) -> Float[np.ndarray, "n 3"]:
    """Lambert's law plus the ego's lamps, then fog."""
    a = appearance
    facing = np.maximum(normal @ a.sun_direction, 0.0)[:, None]
    light = a.ambient + a.sun * facing
    if a.lights_on and a.style.time != "day":
        d = position[:, :2] - view.ego_pose[:2]
        c, s = np.cos(view.ego_pose[2]), np.sin(view.ego_pose[2])
        beam = headlight(c * d[:, 0] + s * d[:, 1], -s * d[:, 0] + c * d[:, 1])
        light = light + 0.8 * beam[:, None]
    light = np.where(emits[:, None], 1.0, light)
    distance = np.linalg.norm(position - view.position, axis=1)
    # Lamps shine through the fog a little.
    clear = np.exp(-a.fog_density * distance * np.where(emits, 0.5, 1.0))[:, None]
    return colour * light * clear + a.fog_colour * (1 - clear)


def _project_quads(
    quads: Quads, distance: np.ndarray, colour: np.ndarray, emits: np.ndarray, label: int,
    appearance: Appearance, view: Viewpoint,
) -> _Polygons | None:  # fmt: skip
    """Culls, clips, projects and lights quads; `distance` is that of the solid."""
    towards = view.position - quads.corners[:, 0]
    faces_us = np.einsum("nd,nd->n", towards, quads.normal) > 0
    camera = view.to_camera(quads.corners)
    in_front = camera[..., 2] > NEAR
    middle, focal = view.size[1] / 2, view.focal
    # Outside the picture on one side with all corners.
    slack = middle * np.maximum(camera[..., 2], NEAR) / focal
    aside = (camera[..., 0] > slack).all(axis=1) | (camera[..., 0] < -slack).all(axis=1)
    seen = np.flatnonzero(faces_us & in_front.any(axis=1) & ~aside)
    if len(seen) == 0:
        return None
    camera, in_front = camera[seen], in_front[seen]
    points = view.to_samples(camera)[:, [0, 1, 2, 3, 3, 3, 3, 3]]
    for i in np.flatnonzero(~in_front.all(axis=1)):
        points[i] = view.to_samples(_clip_near(camera[i]))
    centre = quads.corners[seen].mean(axis=1)
    lit = _lit(colour[seen], quads.normal[seen], centre, emits[seen], appearance, view)
    is_shadow = quads.material[seen] == SHADOW
    # Shadows lie under everything.
    far = np.where(is_shadow, 1e6, distance[seen])
    labels = np.full(len(seen), label, np.uint8)
    return _Polygons(points, far, quads.rank[seen], lit, labels, is_shadow)


def _clip_near(corners: Float[np.ndarray, "4 3"]) -> Float[np.ndarray, "8 3"]:
    """Sutherland-Hodgman against the near plane; the last corner is repeated."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0)):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.stack(kept + [kept[-1]] * (8 - len(kept)))


def _vehicles(
    agents: np.ndarray, kinds: list[str], colours: np.ndarray, appearance: Appearance,
    view: Viewpoint,
) -> _Polygons | None:  # fmt: skip
    delta = agents[:, :2] - view.position[:2]
    distance = np.hypot(delta[:, 0], delta[:, 1])
    ahead = np.cos(view.heading) * delta[:, 0] + np.sin(view.heading) * delta[:, 1]
    # A box around the camera itself would fill the picture; it is left out.
    wanted = np.flatnonzero((distance < VEHICLE_RANGE) & (ahead > -6.0) & (distance > 1.2))
    if len(wanted) == 0:
        return None
    pieces, owners = [], []
    for i in wanted:
        template = vehicle_template(kinds[i])
        keep = slice(None) if distance[i] < DETAIL_RANGE else template.rank != 3
        c, s = np.cos(agents[i, 2]), np.sin(agents[i, 2])
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        corners = template.corners[keep] @ turn + (agents[i, 0], agents[i, 1], 0.0)
        normal = template.normal[keep] @ turn
        pieces.append((corners, normal, template.material[keep], template.rank[keep]))
        owners.append(np.full(len(corners), i))
    corners, normal, material, rank = (np.concatenate(p) for p in zip(*pieces))
    owner = np.concatenate(owners)
    table = np.zeros((9, 3))
    table[GLASS] = (54, 66, 82)
    table[TYRE] = (26, 26, 28)
    table[TAIL_LIGHT] = (255, 34, 26) if appearance.lights_on else (190, 26, 24)
    table[HEAD_LIGHT] = (255, 250, 214) if appearance.lights_on else (222, 226, 224)
    colour = np.where((material == PAINT)[:, None], colours[owner], table[material])
    emits = ((material == TAIL_LIGHT) | (material == HEAD_LIGHT)) & appearance.lights_on
    quads = Quads(corners, normal, material, owner, rank)
    keep_shadow = (material != SHADOW) | appearance.has_shadows | (appearance.style.time == "day")
    quads = Quads(*(getattr(quads, f)[keep_shadow] for f in Quads.__dataclass_fields__))
    colour, emits = colour[keep_shadow], emits[keep_shadow]
    return _project_quads(quads, distance[quads.owner], colour, emits, 4, appearance, view)


def _buildings(
    buildings: Buildings, appearance: Appearance, view: Viewpoint
) -> _Polygons | None:
    delta = buildings.centre - view.position[:2]
    distance = np.hypot(delta[:, 0], delta[:, 1])
    ahead = np.cos(view.heading) * delta[:, 0] + np.sin(view.heading) * delta[:, 1]
    near = (distance < BUILDING_RANGE) & (ahead > -buildings.radius)
    if not near.any():
        return None
    quads = buildings.quads
    keep = near[quads.owner]
    keep &= (distance[quads.owner] < 60.0) | (quads.material != WINDOW)
    quads = Quads(*(getattr(quads, f)[keep] for f in Quads.__dataclass_fields__))
    table = np.zeros((9, 3))
    table[ROOF] = (96, 74, 66) if appearance.style.season != "winter" else (236, 240, 246)
    table[WINDOW] = (70, 84, 100)
    colour = np.where(
        (quads.material == WALL)[:, None], buildings.colour[quads.owner], table[quads.material]
    )
    dark = appearance.style.time != "day"
    # About half of the windows are lit, always the same ones.
    hashed = (np.abs(quads.corners[:, 0]).sum(axis=1) * 7.3).astype(int) % 100
    emits = (quads.material == WINDOW) & (hashed < 50) & dark
    colour[emits] = (250, 206, 120)
    return _project_quads(quads, distance[quads.owner], colour, emits, 6, appearance, view)


_ANGLES = np.arange(8) * np.pi / 4 + 0.3
_BLOB = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1) * np.array(
    [1.0, 0.92, 1.08, 0.95, 1.05, 0.9, 1.06, 0.97]
)[:, None]


def _tree_shapes() -> tuple[Float[np.ndarray, "p 8 2"], Float[np.ndarray, "p 8 2"]]:
    """Polygons of a broad tree and of a conifer: x in radii, y in heights above the foot."""

    def pad(points: list[tuple[float, float]]) -> np.ndarray:
        return np.array(points + [points[-1]] * (8 - len(points)))

    trunk = pad([(-0.11, 0.0), (0.11, 0.0), (0.09, 0.45), (-0.09, 0.45)])
    broad = [trunk]
    blobs = ((0.0, 0.62, 1.0, 0.36), (0.22, 0.72, 0.62, 0.24))
    for x, y, rx, ry in blobs:
        broad.append(_BLOB * (rx, ry) + (x, y))
    conifer = [pad([(-0.09, 0.0), (0.09, 0.0), (0.07, 0.3), (-0.07, 0.3)])]
    conifer.append(pad([(-0.8, 0.16), (0.8, 0.16), (0.0, 1.0)]))
    conifer.append(pad([(-0.05, 0.2), (0.72, 0.19), (0.0, 1.0)]))
    return np.stack(broad), np.stack(conifer)


_BROAD, _CONIFER = _tree_shapes()


def _trees(trees: Trees, appearance: Appearance, view: Viewpoint) -> _Polygons | None:
    feet = np.concatenate([trees.base, np.zeros((len(trees.base), 1))], axis=1)
    camera = view.to_camera(feet)
    depth = camera[:, 2]
    aside = np.abs(camera[:, 0]) - trees.radius > depth * view.size[1] / 2 / view.focal
    seen = np.flatnonzero((depth > 1.5) & (depth < TREE_RANGE) & ~aside)
    if len(seen) == 0:
        return None
    foot = view.to_samples(camera[seen])
    scale = view.focal / depth[seen]
    shapes = np.where(trees.is_conifer[seen][:, None, None, None], _CONIFER, _BROAD)
    unit = np.stack([trees.radius[seen], -trees.height[seen]], axis=1) * scale[:, None]
    points = foot[:, None, None] + shapes * unit[:, None, None]  # trees x parts x 8 x 2
    hue = appearance.foliage[trees.hue[seen]]
    parts = np.stack([np.broadcast_to(appearance.trunk, hue.shape), hue * 0.82, hue], axis=1)
    n, p = points.shape[:2]
    up = np.tile((0.0, 0.0, 0.75), (n * p, 1))
    position = np.repeat(feet[seen], p, axis=0) + (0.0, 0.0, 2.0)
    lit = _lit(
        parts.reshape(-1, 3), up, position, np.zeros(n * p, bool), appearance, view
    )
    near = np.ones((n, p), bool)
    near[:, 0] = depth[seen] < DETAIL_RANGE
    near[:, 2] = depth[seen] < 1.4 * DETAIL_RANGE
    keep = near.reshape(-1)
    distance = np.repeat(np.hypot(camera[seen, 0], depth[seen]), p)
    rank = np.tile(np.arange(p), n)
    return _Polygons(
        points.reshape(-1, 8, 2)[keep],
        distance[keep],
        rank[keep],
        lit[keep],
        np.full(int(keep.sum()), 5, np.uint8),
        np.zeros(int(keep.sum()), bool),
    )
