"""The route of the ego: where it starts, the smooth path it plans, and the command that follows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float

from maskworld.worlds.drive.roads import Lane, RoadMap

SPACING = 0.5
"""Metres between the points of a route. Ours."""
COMMAND_DISTANCE = 25.0
"""How far ahead the command looks along the route, metres. Ours."""
COMMAND_ANGLE = 0.35
"""Change of the route's heading that makes a turn, radians. Ours."""
OFF_ROUTE = 8.0
"""Beyond this distance from the route the command is unknown, metres. Ours."""


class Command(IntEnum):
    """What the navigation asks for; from the planned route, never from the driven future."""

    LEFT = 0
    STRAIGHT = 1
    RIGHT = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Route:
    """A smooth path every `SPACING` metres, with unwrapped heading, curvature and speed limit."""

    points: Float[np.ndarray, "n 2"]
    heading: Float[np.ndarray, " n"]
    curvature: Float[np.ndarray, " n"]
    speed_limit: float
    start: int
    """Index of the point where the ego starts."""
    is_dead_end: bool
    """The road ends with the route, so the ego must stop there."""

    def nearest(self, x: float, y: float, near: int | None = None, window: int = 60) -> int:
        """Index of the closest point, searched within `window` points of `near` when given."""
        low, high = 0, len(self.points)
        if near is not None:
            low, high = max(0, near - window), min(high, near + window + 1)
        delta = self.points[low:high] - (x, y)
        return low + int(np.argmin(np.einsum("nd,nd->n", delta, delta)))

    def command(self, x: float, y: float, near: int | None = None) -> Command:
        """The turn within the next `COMMAND_DISTANCE` metres of the route."""
        here = self.nearest(x, y, near)
        ahead = here + int(COMMAND_DISTANCE / SPACING)
        if np.hypot(*(self.points[here] - (x, y))) > OFF_ROUTE or here >= len(self.points) - 2:
            return Command.UNKNOWN
        turn = self.heading[here : ahead + 1] - self.heading[here]
        largest = float(turn[np.argmax(np.abs(turn))])
        if abs(largest) < COMMAND_ANGLE:
            return Command.STRAIGHT
        return Command.LEFT if largest > 0 else Command.RIGHT


def plan_route(road_map: RoadMap, rng: np.random.Generator) -> Route:
    """Draws a start and a goal that fit the scenario, and the path between them."""
    plan = {
        "highway": _plan_highway,
        "merge": _plan_merge,
        "intersection": _plan_intersection,
        "roundabout": _plan_roundabout,
        "racetrack": _plan_racetrack,
    }
    return plan[road_map.scenario](road_map, rng)


def _make_route(
    points: Float[np.ndarray, "n 2"],
    start: float,
    speed_limit: float,
    *,
    smoothing: float = 2.0,
    is_dead_end: bool = False,
) -> Route:
    """Resamples to `SPACING`, smooths with a Gaussian of `smoothing` metres, measures curvature."""
    step = np.linalg.norm(np.diff(points, axis=0), axis=1)
    points = points[np.concatenate([[True], step > 0.05])]
    station = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    wanted = np.arange(0.0, station[-1], SPACING)
    dense = np.stack([np.interp(wanted, station, points[:, d]) for d in (0, 1)], axis=1)
    pad = int(4 * smoothing / SPACING)
    # Continue in a straight line at both ends, so that smoothing does not pull them inwards.
    before = dense[0] - np.arange(pad, 0, -1)[:, None] * (dense[1] - dense[0])
    after = dense[-1] + np.arange(1, pad + 1)[:, None] * (dense[-1] - dense[-2])
    padded = np.concatenate([before, dense, after])
    kernel = cv2.getGaussianKernel(2 * pad + 1, smoothing / SPACING)[:, 0]
    smooth = np.stack([np.convolve(padded[:, d], kernel, "valid") for d in (0, 1)], axis=1)
    tangent = np.gradient(smooth, axis=0)
    heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    curvature = np.gradient(heading) / SPACING
    return Route(smooth, heading, curvature, speed_limit, int(start / SPACING), is_dead_end)


def _chain(lanes: list[Lane]) -> Float[np.ndarray, "n 2"]:
    return np.concatenate([lane.centreline for lane in lanes])


def _plan_highway(road_map: RoadMap, rng: np.random.Generator) -> Route:
    lanes = list(road_map.lanes.values())
    first = int(rng.integers(len(lanes)))
    points = lanes[first].centreline
    start = 300.0 + rng.uniform(0, 100)
    if len(lanes) > 1 and rng.uniform() < 0.4:
        # A lane change, over 60 to 90 m.
        second = int(np.clip(first + rng.choice([-1, 1]), 0, len(lanes) - 1))
        begin = start + rng.uniform(40, 120)
        length = rng.uniform(60, 90)
        points = _blend(points, lanes[second].centreline, begin, length)
    return _make_route(points, start, float(rng.uniform(15, 22)))


def _blend(
    one: Float[np.ndarray, "n 2"], two: Float[np.ndarray, "n 2"], begin: float, length: float
) -> Float[np.ndarray, "n 2"]:
    """Leaves the first of two parallel lines for the second, along a smooth step."""
    station = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(one, axis=0), axis=1))])
    u = np.clip((station - begin) / length, 0.0, 1.0)[:, None]
    return one + (two - one) * u**3 * (10 - 15 * u + 6 * u**2)


def _plan_merge(road_map: RoadMap, rng: np.random.Generator) -> Route:
    lanes = road_map.lanes
    limit = float(rng.uniform(13, 18))
    if rng.uniform() < 0.6:
        merging, target = lanes["b", "c", 2].centreline, lanes["b", "c", 1].centreline
        parts = [
            lanes["j", "k", 0].centreline,
            lanes["k", "b", 0].centreline,
            _blend(merging, target, 5.0, 60.0),
            lanes["c", "d", 1].centreline,
        ]
        start = rng.uniform(90, 150)
    else:
        lane = int(rng.integers(2))
        parts = [lanes[a, b, lane].centreline for a, b in (("a", "b"), ("b", "c"), ("c", "d"))]
        start = rng.uniform(80, 150)
    tail = parts[-1][-1] + np.arange(1.0, 200.0)[:, None] * (1.0, 0.0)
    return _make_route(np.concatenate([*parts, tail]), start, limit)


def _plan_intersection(road_map: RoadMap, rng: np.random.Generator) -> Route:
    lanes = road_map.lanes
    origin = int(rng.integers(4))
    goal = (origin + int(rng.integers(1, 4))) % 4
    chain = [
        lanes[f"o{origin}", f"ir{origin}", 0],
        lanes[f"ir{origin}", f"il{goal}", 0],
        lanes[f"il{goal}", f"o{goal}", 0],
    ]
    start = 100.0 - rng.uniform(15, 50)
    return _make_route(
        _chain(chain), start, float(rng.uniform(7.5, 9.5)), smoothing=1.5, is_dead_end=True
    )


def _plan_roundabout(road_map: RoadMap, rng: np.random.Generator) -> Route:
    lanes = road_map.lanes
    sides = "senw"
    entry = int(rng.integers(4))
    # Counter-clockwise in y-left; the exits come up in the order east, north, west, south.
    order = ["se", "ex", "ee", "nx", "ne", "wx", "we", "sx"]
    outer = max(index[2] for index in lanes if index[0] == "se")
    letter = sides[entry]
    chain = [lanes[f"{letter}er", f"{letter}es", 0], lanes[f"{letter}es", f"{letter}e", 0]]
    at = order.index(f"{letter}e")
    for _ in range(2 * int(rng.integers(1, 4)) - 1):
        chain.append(lanes[order[at], order[(at + 1) % 8], outer])
        at = (at + 1) % 8
    node = order[at]
    chain += [lanes[node, f"{node}s", 0], lanes[f"{node}s", f"{node}r", 0]]
    start = len(chain[0].centreline) - rng.uniform(2, 45)
    return _make_route(_chain(chain), start, float(rng.uniform(7, 9)), is_dead_end=True)


def _plan_racetrack(road_map: RoadMap, rng: np.random.Generator) -> Route:
    nodes = sorted({index[0] for index in road_map.lanes})
    num_lanes = min(
        sum(index[:2] == (a, b) for index in road_map.lanes)
        for a, b in zip(nodes, nodes[1:] + nodes[:1])
    )
    lane = int(rng.integers(num_lanes))
    first = int(rng.integers(len(nodes)))
    loop = [nodes[(first + i) % len(nodes)] for i in range(2 * len(nodes) + 1)]
    chain = [road_map.lanes[a, b, lane] for a, b in pairwise(loop)]
    start = 30.0 + rng.uniform(0, 20)
    return _make_route(_chain(chain), start, float(rng.uniform(8, 11)), smoothing=4.0)
