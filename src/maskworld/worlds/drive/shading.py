"""Which solids a camera sees, where their polygons fall in the picture, and in which colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from maskworld.worlds.drive.cameras import Camera, Rays
from maskworld.worlds.drive.classes import BUILDING, VEGETATION, VEHICLE
from maskworld.worlds.drive.scenery import (
    DETAIL,
    GLASS,
    HEAD_LIGHT,
    MATERIALS,
    PAINT,
    ROOF,
    SHADOW,
    TAIL_LIGHT,
    TYRE,
    WALL,
    WINDOW,
    Buildings,
    Fleet,
    Trees,
)
from maskworld.worlds.drive.weather import Appearance

NEAR = 0.3
"""Metres in front of the camera where polygons are cut."""
TREE_RANGE, BUILDING_RANGE, VEHICLE_RANGE = 85.0, 120.0, 110.0
DETAIL_RANGE, WINDOW_RANGE = 40.0, 60.0
"""Beyond them wheels, lights and tree trunks, and windows, are left out. Metres, ours."""


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
class Polygons:
    """What is drawn, as convex polygons of up to 8 corners (the last one repeated)."""

    points: Float[np.ndarray, "n 8 2"]
    """In samples, the centre of the first sample at 0."""
    distance: Float[np.ndarray, " n"]
    """Of the solid that the polygon belongs to; shadows are farther than anything."""
    rank: Int[np.ndarray, " n"]
    """Order within a solid."""
    colours: Float[np.ndarray, "n 3"]
    labels: Int[np.ndarray, " n"]
    """Class, or -1 where the label of the ground stays (shadows)."""


def headlight(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Light of the ego's own lamps at a point of the ego frame, as a factor on colours."""
    x = np.maximum(x, 0.1)
    return np.exp(-((y / (0.5 * x + 1.6)) ** 2)) * np.exp(-x / 30.0) * (x > 0.2)


def gather_polygons(
    trees: Trees,
    buildings: Buildings,
    fleet: Fleet,
    agents: Float[np.ndarray, "n 6"],
    appearance: Appearance,
    view: Viewpoint,
) -> Polygons | None:
    """Projects, lights and sorts everything in front of the camera, back to front."""
    parts = [_solids(buildings, fleet, agents, appearance, view), _trees(trees, appearance, view)]
    parts = [part for part in parts if part is not None]
    if not parts:
        return None
    points, distance, rank, colours, labels = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("points", "distance", "rank", "colours", "labels")
    )
    order = np.lexsort((rank, -distance))
    return Polygons(points[order], distance[order], rank[order], colours[order], labels[order])


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
    if a.headlights:
        d = position[:, :2] - view.ego_pose[:2]
        c, s = np.cos(view.ego_pose[2]), np.sin(view.ego_pose[2])
        beam = headlight(c * d[:, 0] + s * d[:, 1], -s * d[:, 0] + c * d[:, 1])
        light = light + 0.8 * a.headlights * beam[:, None]
    light = np.where(emits[:, None], 1.0, light)
    distance = np.linalg.norm(position - view.position, axis=1)
    # Lamps shine through the fog a little.
    clear = np.exp(-a.fog_density * distance * np.where(emits, 0.5, 1.0))[:, None]
    return colour * light * clear + a.fog_colour * (1 - clear)


def _seen(
    centre: Float[np.ndarray, "n 2"], radius: Float[np.ndarray, " n"], reach: float, view: Viewpoint
) -> tuple[np.ndarray, Float[np.ndarray, " n"]]:
    """Which upright solids may be in the picture, and how far each is."""
    delta = centre - view.position[:2]
    c, s = np.cos(view.heading), np.sin(view.heading)
    forward, right = c * delta[:, 0] + s * delta[:, 1], s * delta[:, 0] - c * delta[:, 1]
    distance = np.hypot(forward, right)
    half = np.arctan(view.size[1] / 2 / view.focal)
    # Beyond the side plane of the view by more than the radius.
    aside = np.abs(right) * np.cos(half) - forward * np.sin(half) > radius
    # A box around the camera itself would fill the picture; it is left out.
    return (distance < reach) & (forward > -radius) & ~aside & (distance > 1.2), distance


def _solids(
    buildings: Buildings,
    fleet: Fleet,
    agents: Float[np.ndarray, "n 6"],
    appearance: Appearance,
    view: Viewpoint,
) -> Polygons | None:
    """The quads of vehicles and buildings."""
    seen, far = _seen(agents[:, :2], fleet.radius, VEHICLE_RANGE, view)
    q = fleet.quads
    keep = seen[q.owner] & ((far < DETAIL_RANGE)[q.owner] | (q.rank != DETAIL))
    owner = q.owner[keep]
    c, s = np.cos(agents[owner, 2, None]), np.sin(agents[owner, 2, None])
    local, normal = q.corners[keep], q.normal[keep]
    corners = np.stack(
        [
            c * local[..., 0] - s * local[..., 1] + agents[owner, 0, None],
            s * local[..., 0] + c * local[..., 1] + agents[owner, 1, None],
            local[..., 2],
        ],
        axis=-1,
    )
    c, s = c[:, 0], s[:, 0]
    normal = np.stack(
        [c * normal[:, 0] - s * normal[:, 1], s * normal[:, 0] + c * normal[:, 1], normal[:, 2]],
        axis=-1,
    )
    seen, away = _seen(buildings.centre, buildings.radius, BUILDING_RANGE, view)
    b = buildings.quads
    walls = seen[b.owner] & ((away < WINDOW_RANGE)[b.owner] | (b.material != WINDOW))
    corners = np.concatenate([corners, b.corners[walls]])
    normal = np.concatenate([normal, b.normal[walls]])
    distance = np.concatenate([far[owner], away[b.owner[walls]]])
    material = np.concatenate([q.material[keep], b.material[walls]])
    rank = np.concatenate([q.rank[keep], b.rank[walls]])
    tint = np.concatenate([q.tint[keep], b.tint[walls]])
    label = np.repeat((VEHICLE, BUILDING), (len(owner), int(walls.sum())))
    label[material == SHADOW] = -1
    # Shadows lie under everything.
    distance[material == SHADOW] = 1e6
    faces_us = np.einsum("nd,nd->n", view.position - corners[:, 0], normal) > 0
    if not appearance.has_shadows:
        faces_us &= material != SHADOW
    rows = np.flatnonzero(faces_us)
    camera = view.to_camera(corners[rows])
    in_front = camera[..., 2] > NEAR
    inside = in_front.any(axis=1)
    rows, camera, in_front = rows[inside], camera[inside], in_front[inside]
    if len(rows) == 0:
        return None
    points = view.to_samples(camera)[:, [0, 1, 2, 3, 3, 3, 3, 3]]
    for i in np.flatnonzero(~in_front.all(axis=1)):
        points[i] = view.to_samples(_clip_near(camera[i]))
    centre = corners[rows].mean(axis=1)
    colour, emits = _surface(material[rows], tint[rows], centre, appearance)
    lit = _lit(colour, normal[rows], centre, emits, appearance, view)
    return Polygons(points, distance[rows], rank[rows], lit, label[rows])


def _surface(
    material: Int[np.ndarray, " n"],
    tint: Float[np.ndarray, "n 3"],
    centre: Float[np.ndarray, "n 3"],
    appearance: Appearance,
) -> tuple[Float[np.ndarray, "n 3"], np.ndarray]:
    """Unlit colours, and which quads shine by themselves."""
    lights_on = appearance.lights_on
    table = np.zeros((len(MATERIALS), 3))
    # A shadow is dark road.
    table[SHADOW] = 0.45 * appearance.road
    table[GLASS] = (54, 66, 82)
    table[TYRE] = (26, 26, 28)
    table[TAIL_LIGHT] = (255, 34, 26) if lights_on else (190, 26, 24)
    table[HEAD_LIGHT] = (255, 250, 214) if lights_on else (222, 226, 224)
    table[ROOF] = (236, 240, 246) if appearance.style.season == "winter" else (96, 74, 66)
    table[WINDOW] = (70, 84, 100)
    painted = (material == PAINT) | (material == WALL)
    colour = np.where(painted[:, None], tint, table[material])
    emits = ((material == TAIL_LIGHT) | (material == HEAD_LIGHT)) & lights_on
    if appearance.style.time != "day":
        # About half of the windows are lit, always the same ones.
        shines = (np.abs(centre @ (7.3, 3.1, 5.7)).astype(int) % 100 < 50) & (material == WINDOW)
        colour[shines] = (250, 206, 120)
        emits |= shines
    return colour, emits


def _clip_near(corners: Float[np.ndarray, "4 3"]) -> Float[np.ndarray, "8 3"]:
    """Sutherland-Hodgman against the near plane; the last corner is repeated."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0)):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.stack(kept + [kept[-1]] * (8 - len(kept)))


_ANGLES = np.arange(8) * np.pi / 4 + 0.3
_BLOB = (
    np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    * np.array([1.0, 0.92, 1.08, 0.95, 1.05, 0.9, 1.06, 0.97])[:, None]
)


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


def _trees(trees: Trees, appearance: Appearance, view: Viewpoint) -> Polygons | None:
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
    position = np.repeat(feet[seen], p, axis=0) + np.array((0.0, 0.0, 2.0))
    lit = _lit(parts.reshape(-1, 3), up, position, np.zeros(n * p, bool), appearance, view)
    near = np.ones((n, p), bool)
    near[:, 0] = depth[seen] < DETAIL_RANGE
    near[:, 2] = depth[seen] < 1.4 * DETAIL_RANGE
    keep = near.reshape(-1)
    distance = np.repeat(np.hypot(camera[seen, 0], depth[seen]), p)
    rank = np.tile(np.arange(p), n)
    return Polygons(
        points.reshape(-1, 8, 2)[keep],
        distance[keep],
        rank[keep],
        lit[keep],
        np.full(int(keep.sum()), VEGETATION),
    )
