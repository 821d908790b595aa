"""A moment of the driving world in the form that the PDM score reads.

The score always drives a Chrysler Pacifica (5.18 x 2.30 m); the world's ego is 4.6 x 1.9 m. The
road that may be driven on is the lanes and a shoulder beside them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from maskworld.metrics.pdms import NUM_STATES, Agent, EgoState, MapPolygon, PDMScene
from maskworld.metrics.pdms.vehicle import WHEEL_BASE
from maskworld.worlds.drive.lanes import LaneIndex
from maskworld.worlds.drive.roads import Lane, offset_polyline
from maskworld.worlds.drive.route import SPACING, Route
from maskworld.worlds.drive.scene import Scene

RATE = 10.0
"""States of agents per second (NAVSIM)."""
REACH = 170.0
"""Lanes and traffic that come within this distance of the ego are kept, metres: 4 s at the highest
speed of the world, 40 m/s. Ours."""
SHOULDER = 1.0
"""Metres beside the lanes that may be driven on; the picture shows a verge of 1.3 m. Ours: where
the expert keeps to its lane, the score's tracker strays up to 1.2 m from it in roundabouts."""
MIN_TAKEN = 2.0
"""Metres of the route along a lane from which on it takes the lane. Ours."""
NUM_AT_ONCE = 100
"""Points of a route that are compared with the part of a lane beside them."""
OVERLAP = 1.0
"""Drivable outlines reach this far beyond the ends of their lanes, so that no slits remain."""
ROUTE_BEHIND, ROUTE_AHEAD = 20.0, 60.0
"""Metres of the route kept behind the ego, and ahead beyond what 5 s at the limit need. Ours."""
TOLERANCE = 0.005
"""Metres by which a simplified outline may differ."""


def pdm_scene(scene: Scene, step: int) -> PDMScene:
    """The moment `step` of a recorded world, and its log for the following 5 s.

    For several moments of one world take `PDMWorld`, which outlines its lanes only once.

    Raises:
        ValueError: the log ends before, or is not at 10 Hz.
    """
    return PDMWorld(scene).at(step)


class PDMWorld:
    """A recorded world whose moments are asked for as scenes of the PDM score.

    Outlines of lanes are made, checked and cut once; the scenes share them.

    Raises:
        ValueError: the log is not at 10 Hz.
    """

    def __init__(self, scene: Scene) -> None:
        if scene.fps != RATE:
            raise ValueError(f"Expected a log at {RATE:g} Hz, found {scene.fps:g} Hz.")
        self.scene = scene
        self._lanes = list(scene.stage.road_map.lanes.values())
        self._points = np.concatenate([lane.centreline for lane in self._lanes])
        counts = [len(lane.centreline) for lane in self._lanes]
        self._starts = np.cumsum([0, *counts[:-1]])
        route = scene.stage.route
        self._is_along = np.stack([_is_along(lane, route) for lane in self._lanes])
        self._outlined: dict[tuple[int, bool], tuple[MapPolygon, MapPolygon]] = {}

    def at(self, step: int) -> PDMScene:
        """The moment `step`, and its log for the following 5 s.

        Raises:
            ValueError: the log ends before.
        """
        scene, last = self.scene, self.scene.num_steps - NUM_STATES
        if not 0 <= step <= last:
            raise ValueError(
                f"Expected a step of 0 to {last}, with 5 s of log after it, found {step} of "
                f"{scene.num_steps}: record more steps."
            )
        speed, yaw_rate = scene.actions[step].tolist()
        state = ego_of(scene.poses[step], speed, scene.ego_state(step).acceleration, yaw_rate)
        here, route = np.array([state.x, state.y]), scene.stage.route
        station = route.nearest(state.x, state.y)
        ahead = ROUTE_AHEAD + route.speed_limit * NUM_STATES / RATE
        window = slice(
            max(0, station - int(ROUTE_BEHIND / SPACING)), station + int(ahead / SPACING) + 1
        )
        points, headings = route.points[window], route.heading[window]
        return PDMScene(
            ego=state,
            polygons=tuple(self._polygons(window, here)),
            centerline=np.concatenate([points, headings[:, None]], axis=1),
            agents=tuple(_agents(scene.agents[step : step + NUM_STATES], here)),
            speed_limit=route.speed_limit,
        )

    def _polygons(self, window: slice, here: Float[np.ndarray, " 2"]) -> Iterator[MapPolygon]:
        """Every lane that comes within `REACH` of `here`, and the area that may be driven on
        around it.

        Lanes across a junction are lane connectors on an intersection, all others lanes on drivable
        area. All lanes beside one that the route takes within `window` are on the route.
        """
        squared = np.square(self._points - here).sum(axis=1)
        near = np.flatnonzero(np.minimum.reduceat(squared, self._starts) < REACH**2).tolist()
        metres = SPACING * self._is_along[near, window].sum(axis=1)
        taken = {self._lanes[i].index[:2] for i, way in zip(near, metres) if way >= MIN_TAKEN}
        for i in near:
            yield from self._outlines(i, self._lanes[i].index[:2] in taken)

    def _outlines(self, i: int, on_route: bool) -> tuple[MapPolygon, MapPolygon]:
        if (i, on_route) not in self._outlined:
            if (i, not on_route) in self._outlined:
                pair = self._outlined[i, not on_route]
                lane, road = (polygon.on(on_route) for polygon in pair)
            else:
                lane, road = _polygons_of(self._lanes[i], on_route)
            self._outlined[i, on_route] = (lane, road)
        return self._outlined[i, on_route]


def ego_of(
    pose: Float[np.ndarray, " 3"], speed: float, acceleration: float, yaw_rate: float
) -> EgoState:
    """A unicycle's motion as the score's initial state, its front wheels turned to match."""
    x, y, heading = (float(v) for v in pose)
    steer = float(np.arctan(WHEEL_BASE * yaw_rate / speed)) if speed > 0.5 else 0.0
    return EgoState(
        x,
        y,
        heading,
        vx=speed,
        ax=acceleration,
        ay=speed * yaw_rate,
        steer=steer,
        yaw_rate=yaw_rate if speed > 0.5 else 0.0,
    )


def is_connector(index: LaneIndex) -> bool:
    """Whether a lane crosses a junction (`ir..` to `il..` in highway-env's intersection)."""
    return index[0].startswith("ir") and index[1].startswith("il")


def simplify(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """The fewest of the points that stay within `TOLERANCE` of all (Douglas and Peucker, 1973)."""
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    stack = [(0, len(points) - 1)]
    while stack:
        low, high = stack.pop()
        if high - low < 2:
            continue
        chord = points[high] - points[low]
        between = points[low + 1 : high] - points[low]
        across = np.abs(chord[0] * between[:, 1] - chord[1] * between[:, 0])
        across /= max(float(np.hypot(*chord)), 1e-9)
        farthest = int(across.argmax())
        if across[farthest] > TOLERANCE:
            middle = low + 1 + farthest
            keep[middle] = True
            stack += [(low, middle), (middle, high)]
    return points[keep]


def _polygons_of(lane: Lane, on_route: bool) -> tuple[MapPolygon, MapPolygon]:
    """A lane, and what may be driven on around it."""
    name, half = "/".join(map(str, lane.index)), lane.width / 2
    kinds = ("lane_connector", "intersection") if is_connector(lane.index) else ("lane", "drivable")
    inner = _outline(lane.centreline, half)
    outer = _outline(_extend(lane.centreline), half + SHOULDER)
    return (
        MapPolygon(f"lane/{name}", kinds[0], on_route, inner),
        MapPolygon(f"road/{name}", kinds[1], on_route, outer),
    )


def _is_along(lane: Lane, route: Route) -> Bool[np.ndarray, " k"]:
    """Which points of the route lie on a lane and go its way."""
    half, line = lane.width / 2, lane.centreline
    tangent = np.gradient(line, axis=0)
    found = np.zeros(len(route.points), bool)
    for first in range(0, len(found), NUM_AT_ONCE):
        part = slice(first, first + NUM_AT_ONCE)
        points, heading = route.points[part], route.heading[part]
        low, high = points.min(axis=0) - half, points.max(axis=0) + half
        near = ((line >= low) & (line <= high)).all(axis=1)
        if not near.any():
            continue
        delta = points[:, None] - line[near]
        squared = np.einsum("knd,knd->kn", delta, delta)
        way = tangent[near][squared.argmin(axis=1)]
        along = way[:, 0] * np.cos(heading) + way[:, 1] * np.sin(heading)
        found[part] = (squared.min(axis=1) < half**2) & (along > 0.8 * np.hypot(*way.T))
    return found


def _extend(part: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    first, last = part[1] - part[0], part[-1] - part[-2]
    before = part[0] - OVERLAP * first / np.hypot(*first)
    after = part[-1] + OVERLAP * last / np.hypot(*last)
    return np.concatenate([before[None], part, after[None]])


def _outline(part: Float[np.ndarray, "n 2"], half_width: float) -> Float[np.ndarray, "m 2"]:
    right, left = (simplify(offset_polyline(part, side * half_width)) for side in (-1.0, 1.0))
    return np.concatenate([right, left[::-1]])


def _agents(rows: Float[np.ndarray, "51 n 6"], here: Float[np.ndarray, " 2"]) -> Iterator[Agent]:
    """Who comes within reach; the world's traffic is all vehicles."""
    for i in range(rows.shape[1]):
        states = rows[:, i]
        if np.hypot(*(states[:, :2] - here).T).min() > REACH:
            continue
        speed, heading = states[:, 5], states[:, 2]
        velocity = np.stack([speed * np.cos(heading), speed * np.sin(heading)], axis=1)
        yield Agent(
            f"agent/{i}",
            "vehicle",
            length=float(states[0, 3]),
            width=float(states[0, 4]),
            states=np.concatenate([states[:, :3], velocity], axis=1),
        )
