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
from maskworld.worlds.drive.roads import Lane, RoadMap, offset_polyline
from maskworld.worlds.drive.route import SPACING, Route
from maskworld.worlds.drive.scene import Scene

RATE = 10.0
"""States of agents per second (NAVSIM)."""
REACH = 170.0
"""Map and traffic within this distance of the ego are kept, metres: 4 s at the highest speed of the
world, 40 m/s. Ours."""
SHOULDER = 1.0
"""Metres beside the lanes that may be driven on; the picture shows a verge of 1.3 m. Ours: where
the expert keeps to its lane, the score's tracker strays up to 1.2 m from it in roundabouts."""
OVERLAP = 1.0
"""Drivable outlines reach this far beyond the ends of their lanes, so that no slits remain."""
ROUTE_BEHIND, ROUTE_AHEAD = 20.0, 60.0
"""Metres of the route kept behind the ego, and ahead beyond what 5 s at the limit need. Ours."""
TOLERANCE = 0.005
"""Metres by which a simplified outline may differ."""


def pdm_scene(scene: Scene, step: int) -> PDMScene:
    """The moment `step` of a recorded world, and its log for the following 5 s.

    Raises:
        ValueError: the log ends before, or is not at 10 Hz.
    """
    if scene.fps != RATE:
        raise ValueError(f"Expected a log at {RATE:g} Hz, found {scene.fps:g} Hz.")
    last = scene.num_steps - NUM_STATES
    if not 0 <= step <= last:
        raise ValueError(
            f"Expected a step of 0 to {last}, with 5 s of log after it, found {step} of "
            f"{scene.num_steps}: record more steps."
        )
    speed, yaw_rate = scene.actions[step].tolist()
    acceleration = scene.ego_state(step).acceleration
    return make_pdm_scene(
        scene.stage.road_map,
        scene.stage.route,
        ego_of(scene.poses[step], speed, acceleration, yaw_rate),
        scene.agents[step : step + NUM_STATES],
    )


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


def make_pdm_scene(
    road_map: RoadMap, route: Route, state: EgoState, agents: Float[np.ndarray, "51 n 6"]
) -> PDMScene:
    """The scene of an ego on its route among `agents` (x, y, heading, length, width, speed)."""
    here = np.array([state.x, state.y])
    station = route.nearest(state.x, state.y)
    ahead = ROUTE_AHEAD + route.speed_limit * NUM_STATES / RATE
    window = slice(
        max(0, station - int(ROUTE_BEHIND / SPACING)), station + int(ahead / SPACING) + 1
    )
    points, headings = route.points[window], route.heading[window]
    return PDMScene(
        ego=state,
        polygons=tuple(map_polygons(road_map, points, headings, here)),
        centerline=np.concatenate([points, headings[:, None]], axis=1),
        agents=tuple(_agents(agents, here)),
        speed_limit=route.speed_limit,
    )


def map_polygons(
    road_map: RoadMap,
    points: Float[np.ndarray, "n 2"],
    headings: Float[np.ndarray, " n"],
    here: Float[np.ndarray, " 2"],
) -> Iterator[MapPolygon]:
    """Every lane within `REACH` of `here`, and the area that may be driven on around it.

    Lanes across a junction are lane connectors on an intersection, all others lanes on drivable
    area. All lanes beside one that the route (`points`, `headings`) takes are on the route.
    """
    near = [(lane, part) for lane in road_map.lanes.values() for part in _parts(lane, here)]
    taken = {lane.index[:2] for lane, part in near if _is_taken(part, lane.width, points, headings)}
    for number, (lane, part) in enumerate(near):
        name = "/".join(str(v) for v in (*lane.index, number))
        crosses = is_connector(lane.index)
        on_route = lane.index[:2] in taken
        half = lane.width / 2
        yield MapPolygon(
            f"lane/{name}", "lane_connector" if crosses else "lane", on_route, _outline(part, half)
        )
        yield MapPolygon(
            f"road/{name}",
            "intersection" if crosses else "drivable",
            on_route,
            _outline(_extend(part), half + SHOULDER),
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


def _parts(lane: Lane, here: Float[np.ndarray, " 2"]) -> Iterator[Float[np.ndarray, "_ 2"]]:
    """The stretches of a lane's centreline within reach."""
    inside = np.hypot(*(lane.centreline - here).T) < REACH
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    for first, stop in edges.reshape(-1, 2):
        if stop - first >= 2:
            yield lane.centreline[first:stop]


def _is_taken(
    part: Float[np.ndarray, "n 2"],
    width: float,
    points: Float[np.ndarray, "k 2"],
    headings: Float[np.ndarray, " k"],
) -> bool:
    """Whether the route runs along a lane for 2 m or more."""
    delta = points[:, None] - part
    squared = np.einsum("knd,knd->kn", delta, delta)
    closest = squared.argmin(axis=1)
    inside = squared[np.arange(len(points)), closest] < (width / 2) ** 2
    tangent = np.gradient(part, axis=0)[closest]
    along = tangent[:, 0] * np.cos(headings) + tangent[:, 1] * np.sin(headings)
    aligned: Bool[np.ndarray, " k"] = along > 0.8 * np.hypot(*tangent.T)
    return int((inside & aligned).sum()) * SPACING >= 2.0


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
